//! Texts with expressions in them, and conditions.

use super::{Env, EvalError, Expr, LogicalOp, Scope, SyntaxError, Value, evaluate};

/// A text that may hold `${{ … }}`.
#[derive(Debug, Clone, Default)]
pub struct Template {
    parts: Vec<Part>,
    source: String,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Expr(Expr),
}

impl Template {
    /// A text without expressions.
    pub fn literal(text: impl Into<String>) -> Self {
        let source: String = text.into();
        Self { parts: vec![Part::Text(source.clone())], source }
    }

    /// Reads a text. The position of an error counts from the start of `text`.
    ///
    /// # Errors
    /// When an expression is not well-formed.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, SyntaxError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(start) = text[at..].find("${{").map(|found| at + found) {
            if start > at {
                parts.push(Part::Text(text[at..start].to_owned()));
            }
            let inner = start + 3;
            let length = expression_length(&text[inner..]);
            let end = inner + length.ok_or_else(|| not_closed(text, start))?;
            let source = &text[inner..end];
            let before = text[..inner].chars().count();
            if source.trim().is_empty() {
                return Err(SyntaxError {
                    position: before,
                    hint: Some("write an expression between '${{' and '}}'".into()),
                    ..super::lexer::error(source, 0, "'${{ }}' is empty".into())
                });
            }
            let lead = source.len() - source.trim_start().len();
            let shift = before + source[..lead].chars().count();
            let expression = Expr::parse(source.trim(), scope)
                .map_err(|error| SyntaxError { position: error.position + shift, ..error })?;
            parts.push(Part::Expr(expression));
            at = end + 2;
        }
        if at < text.len() || parts.is_empty() {
            parts.push(Part::Text(text[at..].to_owned()));
        }
        Ok(Self { parts, source: text.to_owned() })
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text, when there is no expression in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Its value: that of its expression when it is nothing else, a text otherwise.
    ///
    /// # Errors
    /// When an expression has no value.
    pub fn value(&self, env: &Env<'_>) -> Result<Value, EvalError> {
        match self.parts.as_slice() {
            [Part::Expr(expression)] => evaluate(expression, env),
            _ => self.text(env).map(Value::from),
        }
    }

    /// As a text.
    ///
    /// # Errors
    /// When an expression has no value.
    pub fn text(&self, env: &Env<'_>) -> Result<String, EvalError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Expr(expression) => out.push_str(&evaluate(expression, env)?.to_text()),
            }
            if out.len() > 10 * super::MAX_MEMORY {
                return Err(EvalError::new(
                    "the text grows beyond the limit",
                    "write it to a file in a step instead",
                ));
            }
        }
        Ok(out)
    }
}

/// Bytes before the closing braces, which do not count inside a quoted text.
fn expression_length(text: &str) -> Option<usize> {
    let mut quoted = false;
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| {
        quoted ^= bytes[at] == b'\'';
        !quoted && bytes[at..].starts_with(b"}}")
    })
}

fn not_closed(text: &str, start: usize) -> SyntaxError {
    SyntaxError {
        hint: Some("add '}}' after the expression".into()),
        ..super::lexer::error(&text[start..], text[..start].chars().count(), "'${{' is not closed".into())
    }
}

/// An `if`: with or without `${{ }}`; without a status function it also asks for success.
#[derive(Debug, Clone)]
pub struct Condition(Expr);

impl Default for Condition {
    fn default() -> Self {
        Self(Expr::Call("success".into(), Vec::new()))
    }
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, SyntaxError> {
        let trimmed = text.trim();
        let expression = match trimmed.contains("${{") {
            true => template_expression(Template::parse(trimmed, scope)?),
            false => Expr::parse(trimmed, scope)?,
        };
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        Ok(if expression.asks_status() {
            Self(expression)
        } else {
            Self(Expr::Logical(LogicalOp::And, vec![Self::default().0, expression]))
        })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// When it has no value.
    pub fn holds(&self, env: &Env<'_>) -> Result<bool, EvalError> {
        evaluate(&self.0, env).map(|value| value.truthy())
    }
}

/// A template as one expression, the way upstream reads an `if` of texts and expressions mixed.
fn template_expression(mut template: Template) -> Expr {
    if let [Part::Expr(_)] = template.parts.as_slice()
        && let Some(Part::Expr(expression)) = template.parts.pop()
    {
        return expression;
    }
    let mut format = String::new();
    let mut args = vec![Expr::Literal(Value::Null)];
    for part in template.parts {
        match part {
            Part::Text(text) => format.push_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Expr(expression) => {
                format.push_str(&format!("{{{}}}", args.len() - 1));
                args.push(expression);
            }
        }
    }
    args[0] = Expr::Literal(format.into());
    Expr::Call("format".into(), args)
}
