//! Identifiers, literals, calls, selections and constructions.

use super::{
    Parsed, Parser,
    lexer::{self, Tok, Token},
    literal,
};
use crate::ast::{Entry, Expr, Field, Item, Kind, Literal, op};

/// What may begin an expression, as the grammar's tool lists it.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

impl Parser<'_> {
    /// A primary with selections, calls and indexes after it.
    pub(super) fn member(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        loop {
            let token = self.peek();
            expr = match token.kind {
                Tok::Sign(".") => self.dotted(expr, token)?,
                Tok::Sign("[") => self.indexed(expr, token)?,
                _ => return Ok(expr),
            };
        }
    }

    fn dotted(&mut self, operand: Expr, dot: Token) -> Parsed<Expr> {
        self.next += 1;
        let optional = self.take("?");
        let name = self.peek();
        let field = self.field_name()?;
        if optional {
            let field = self.node(name.start, Kind::Literal(Literal::String(field.into())))?;
            return self.call(dot.start, op::OPT_SELECT, vec![operand, field]);
        }
        let open = self.peek();
        if name.kind == Tok::Ident && self.take("(") {
            let args = self.arguments()?;
            return self.call_or_macro(open.start, field, Some(operand), args);
        }
        self.node(dot.start, Kind::Select { operand: Box::new(operand), field, test: false })
    }

    /// A field by name, in back quotes if it is no identifier.
    fn field_name(&mut self) -> Parsed<String> {
        let token = self.peek();
        let name = match token.kind {
            Tok::Ident => self.text(token).to_owned(),
            Tok::Escaped => {
                // Kubernetes leaves this syntax of the language out; it has escapes of its own.
                if !self.keep {
                    self.issues.report(token.start as u32, "unsupported syntax: '`'");
                }
                self.text(token).trim_matches('`').to_owned()
            }
            _ => {
                let message = format!("mismatched input '{}' expecting IDENTIFIER", self.text(token));
                return self.syntax(token, message);
            }
        };
        self.next += 1;
        Ok(name)
    }

    fn indexed(&mut self, operand: Expr, bracket: Token) -> Parsed<Expr> {
        self.next += 1;
        let function = if self.take("?") { op::OPT_INDEX } else { op::INDEX };
        let index = self.expr()?;
        self.expect("]")?;
        self.call(bracket.start, function, vec![operand, index])
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek();
        match token.kind {
            Tok::Sign("(") => self.nested(),
            Tok::Sign("[") => self.list(token),
            Tok::Sign("{") => self.map(token),
            Tok::Sign(".") | Tok::Ident => self.named(token),
            Tok::Sign("-") if self.negative_literal() => {
                self.next += 1;
                self.literal(self.peek(), true, token.start)
            }
            _ => self.literal(token, false, token.start),
        }
    }

    fn nested(&mut self) -> Parsed<Expr> {
        self.next += 1;
        let expr = self.expr()?;
        self.expect(")")?;
        Ok(expr)
    }

    fn literal(&mut self, token: Token, negative: bool, at: usize) -> Parsed<Expr> {
        let text = self.text(token).to_owned();
        let value = match token.kind {
            Tok::Int => literal::int(&text, negative).ok_or("invalid int literal"),
            Tok::Uint => literal::uint(&text).ok_or("invalid uint literal"),
            Tok::Float => literal::double(&text, negative).ok_or("invalid double literal"),
            Tok::String => literal::string(&text),
            Tok::Bytes => literal::bytes(&text),
            Tok::Sign("true") => Ok(Literal::Bool(true)),
            Tok::Sign("false") => Ok(Literal::Bool(false)),
            Tok::Sign("null") => Ok(Literal::Null),
            _ => return self.syntax(token, format!("mismatched input '{text}' expecting {BEGINNINGS}")),
        };
        self.next += 1;
        match value {
            Ok(value) => self.node(at, Kind::Literal(value)),
            Err(message) => self.wrong(at, message),
        }
    }

    /// An identifier, a call, or an object under construction (`a.b.C{..}`).
    fn named(&mut self, first: Token) -> Parsed<Expr> {
        if let Some(name) = self.object_name() {
            let brace = self.peek();
            let fields = self.fields()?;
            return self.node(brace.start, Kind::Struct { name, fields });
        }
        let dot = if self.take(".") { "." } else { "" };
        let token = self.peek();
        if token.kind != Tok::Ident {
            let message = format!("mismatched input '{}' expecting IDENTIFIER", self.text(token));
            return self.syntax(token, message);
        }
        let word = self.text(token).to_owned();
        self.next += 1;
        let open = self.peek();
        let args = if self.take("(") { Some(self.arguments()?) } else { None };
        if lexer::RESERVED.contains(&word.as_str()) {
            return self.wrong(first.start, format!("reserved identifier: {word}"));
        }
        let name = format!("{dot}{word}");
        match args {
            Some(args) => self.call_or_macro(open.start, name, None, args),
            None => self.node(token.start, Kind::Ident(name)),
        }
    }

    /// Takes `a.b.C` when a brace follows it.
    fn object_name(&mut self) -> Option<String> {
        let kind = |at: usize| self.tokens.get(at).map(|t| t.kind);
        let mut at = self.next + usize::from(kind(self.next) == Some(Tok::Sign(".")));
        while kind(at) == Some(Tok::Ident) && kind(at + 1) == Some(Tok::Sign(".")) {
            at += 2;
        }
        if kind(at) != Some(Tok::Ident) || kind(at + 1) != Some(Tok::Sign("{")) {
            return None;
        }
        let tokens = self.tokens.get(self.next..=at).unwrap_or_default();
        let name = tokens.iter().map(|token| self.text(*token)).collect();
        self.next = at + 1;
        Some(name)
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        if self.take(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.take(",") {
                self.expect(")")?;
                return Ok(args);
            }
        }
    }

    fn list(&mut self, bracket: Token) -> Parsed<Expr> {
        let items = self.sequence("]", |parser| {
            let optional = parser.take("?");
            Ok(Item { value: parser.expr()?, optional })
        })?;
        self.node(bracket.start, Kind::List(items))
    }

    fn map(&mut self, brace: Token) -> Parsed<Expr> {
        let entries = self.sequence("}", |parser| {
            let optional = parser.take("?");
            let key = parser.expr()?;
            parser.expect(":")?;
            Ok(Entry { key, value: parser.expr()?, optional })
        })?;
        self.node(brace.start, Kind::Map(entries))
    }

    fn fields(&mut self) -> Parsed<Vec<Field>> {
        self.sequence("}", |parser| {
            let optional = parser.take("?");
            let name = parser.field_name()?;
            let colon = parser.expect(":")?;
            Ok(Field { at: colon.start as u32, name, value: parser.expr()?, optional })
        })
    }

    /// What is between brackets: elements with commas between them, and perhaps one after the last.
    fn sequence<T>(
        &mut self,
        close: &'static str,
        mut element: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.next += 1;
        let mut elements = Vec::new();
        while !self.take(close) {
            // A comma alone is allowed: `[,]`.
            if elements.is_empty() && self.take(",") {
                self.expect(close)?;
                break;
            }
            elements.push(element(self)?);
            // After a comma the end of the text is no more than a missing bracket.
            if !self.take(",") || self.peek().kind == Tok::End {
                self.expect(close)?;
                break;
            }
        }
        Ok(elements)
    }
}
