//! From symbols to a tree. Which contexts and functions may be named depends on the place in the workflow.

use std::sync::Arc;

use wharf_base::closest;

use super::{
    MAX_DEPTH, SyntaxError, Value,
    lexer::{NO_ARITHMETIC, Symbol, Token, error, lex},
};

/// An expression.
#[derive(Debug, Clone)]
pub enum Expr {
    /// A value written down.
    Literal(Value),
    /// A context by name.
    Context(String),
    /// A part of a value.
    Index(Arc<Expr>, Arc<Expr>),
    /// All parts of a value.
    Star(Arc<Expr>),
    /// A function, by its name in lower case.
    Call(String, Vec<Expr>),
    /// `!`.
    Not(Arc<Expr>),
    /// A comparison.
    Binary(BinaryOp, Arc<Expr>, Arc<Expr>),
    /// A chain of `&&` or of `||`.
    Logical(LogicalOp, Vec<Expr>),
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
}

/// A connective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogicalOp {
    /// `&&`
    And,
    /// `||`
    Or,
}

/// What an expression may name.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Contexts.
    pub contexts: &'static [&'static str],
    /// `success()`, `failure()`, `always()`, `cancelled()`.
    pub status: bool,
    /// `hashFiles()`.
    pub files: bool,
}

/// A function: its name, what it takes, and how many of them at least and at most.
type Function = (&'static str, &'static str, usize, usize);

/// Functions everywhere.
const FUNCTIONS: [Function; 8] = [
    ("case", "CONDITION, VALUE, …, OTHERWISE", 3, usize::MAX),
    ("contains", "LIST OR TEXT, ITEM", 2, 2),
    ("endsWith", "TEXT, END", 2, 2),
    ("format", "TEXT, VALUE, …", 1, 255),
    ("fromJSON", "TEXT", 1, 1),
    ("join", "LIST, SEPARATOR", 1, 2),
    ("startsWith", "TEXT, START", 2, 2),
    ("toJSON", "VALUE", 1, 1),
];
const STATUS: [Function; 4] =
    [("always", "", 0, 0), ("cancelled", "", 0, 0), ("failure", "", 0, 255), ("success", "", 0, 255)];
const FILES: Function = ("hashFiles", "PATTERN, …", 1, 255);

impl Expr {
    /// Reads an expression. An empty one is nothing.
    ///
    /// # Errors
    /// When it is not well-formed, or names what is not there.
    pub fn parse(source: &str, scope: &Scope) -> Result<Self, SyntaxError> {
        Self::parse_naming(source, scope.contexts, scope)
    }

    pub(super) fn parse_naming(source: &str, contexts: &[&str], scope: &Scope) -> Result<Self, SyntaxError> {
        let tokens = lex(source)?;
        let mut parser = Parser { source, tokens, at: 0, depth: 0, contexts, scope };
        if parser.peek().symbol == Symbol::End {
            return Ok(Self::Literal(Value::Null));
        }
        let expression = parser.expression()?;
        match parser.peek().symbol {
            Symbol::End => Ok(expression),
            _ => Err(parser.unexpected()),
        }
    }

    /// Whether it asks how things went before.
    pub fn asks_status(&self) -> bool {
        match self {
            Self::Literal(_) | Self::Context(_) => false,
            Self::Index(a, b) | Self::Binary(_, a, b) => a.asks_status() || b.asks_status(),
            Self::Star(inner) | Self::Not(inner) => inner.asks_status(),
            Self::Call(name, args) => {
                STATUS.iter().any(|(known, ..)| known == name) || args.iter().any(Self::asks_status)
            }
            Self::Logical(_, args) => args.iter().any(Self::asks_status),
        }
    }
}

/// Whether a symbol begins a value.
fn is_value(symbol: &Symbol) -> bool {
    use Symbol::{False, Name, Null, Number, Text, True};
    matches!(symbol, Name(_) | Number(_) | Text(_) | True | False | Null)
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    contexts: &'a [&'a str],
    scope: &'a Scope,
}

type Parsed<T = Expr> = Result<T, SyntaxError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is always the end, and never passed.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token.symbol != Symbol::End {
            self.at += 1;
        }
        token
    }

    fn accept(&mut self, symbol: &Symbol) -> bool {
        let found = self.peek().symbol == *symbol;
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, symbol: &Symbol) -> Parsed<()> {
        if self.accept(symbol) {
            return Ok(());
        }
        let (sign, opening) = match symbol {
            Symbol::RightBracket => ("]", "["),
            _ => (")", "("),
        };
        match self.peek().symbol {
            Symbol::End => {
                let hint = Some(format!("close '{opening}' with '{sign}'"));
                let message = format!("'{sign}' is missing");
                Err(SyntaxError { hint, ..error(self.source, self.peek().position, message) })
            }
            _ => Err(self.unexpected()),
        }
    }

    /// A symbol that cannot stand where it does.
    fn unexpected(&self) -> SyntaxError {
        let token = self.peek();
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|token| &token.text);
        let message = match token.symbol {
            Symbol::End => "something is missing at the end".to_owned(),
            _ => format!("'{}' is not expected", token.text),
        };
        let hint = match (&token.symbol, before) {
            (Symbol::End, Some(before)) => format!("write a value after '{before}'"),
            (Symbol::LeftParen, _) => format!("only functions are called: {}", self.functions()),
            (Symbol::RightParen | Symbol::RightBracket, _) => {
                format!("leave '{}' out, or write what it closes before it", token.text)
            }
            (Symbol::Star, _) => NO_ARITHMETIC.into(),
            (Symbol::Comma, _) => "',' stands only between the arguments of a function".into(),
            (symbol, _) if is_value(symbol) => {
                "put an operator between two values: ==, !=, <, <=, >, >=, && or ||".into()
            }
            (_, Some(before)) => format!("write a value between '{before}' and '{}'", token.text),
            (_, None) => format!("write a value before '{}'", token.text),
        };
        SyntaxError { hint: Some(hint), ..error(self.source, token.position, message) }
    }

    /// The functions that can be called here.
    fn known(&self) -> impl Iterator<Item = &'static Function> + use<> {
        FUNCTIONS
            .iter()
            .chain(self.scope.status.then_some(&STATUS).into_iter().flatten())
            .chain(self.scope.files.then_some(&FILES))
    }

    /// Their names.
    fn functions(&self) -> String {
        self.known().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} levels are nested");
            let hint = Some("compute the value in a step and give it as an output".to_owned());
            return Err(SyntaxError { hint, ..error(self.source, self.peek().position, message) });
        }
        Ok(())
    }

    fn expression(&mut self) -> Parsed {
        self.deeper()?;
        let expression = self.or()?;
        self.depth -= 1;
        Ok(expression)
    }

    fn or(&mut self) -> Parsed {
        self.chain(LogicalOp::Or, &Symbol::Or, Self::and)
    }

    fn and(&mut self) -> Parsed {
        self.chain(LogicalOp::And, &Symbol::And, Self::equality)
    }

    fn chain(&mut self, op: LogicalOp, symbol: &Symbol, part: fn(&mut Self) -> Parsed) -> Parsed {
        let first = part(self)?;
        if self.peek().symbol != *symbol {
            return Ok(first);
        }
        self.deeper()?;
        let mut parts = vec![first];
        while self.accept(symbol) {
            parts.push(part(self)?);
        }
        self.depth -= 1;
        Ok(Expr::Logical(op, parts))
    }

    fn equality(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        loop {
            let op = match self.peek().symbol {
                Symbol::Equal => BinaryOp::Equal,
                Symbol::NotEqual => BinaryOp::NotEqual,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Expr::Binary(op, left.into(), self.comparison()?.into());
        }
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let op = match self.peek().symbol {
                Symbol::Greater => BinaryOp::Greater,
                Symbol::GreaterEqual => BinaryOp::GreaterEqual,
                Symbol::Less => BinaryOp::Less,
                Symbol::LessEqual => BinaryOp::LessEqual,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Expr::Binary(op, left.into(), self.unary()?.into());
        }
    }

    fn unary(&mut self) -> Parsed {
        if !self.accept(&Symbol::Not) {
            return self.index();
        }
        self.deeper()?;
        let inner = self.unary()?;
        self.depth -= 1;
        Ok(Expr::Not(inner.into()))
    }

    fn index(&mut self) -> Parsed {
        let (mut expression, indexable) = self.value()?;
        if !indexable {
            return Ok(expression);
        }
        let depth = self.depth;
        loop {
            if self.accept(&Symbol::LeftBracket) {
                expression = if self.accept(&Symbol::Star) {
                    Expr::Star(expression.into())
                } else {
                    Expr::Index(expression.into(), self.expression()?.into())
                };
                self.expect(&Symbol::RightBracket)?;
            } else if self.accept(&Symbol::Dot) {
                let token = self.next();
                expression = match token.symbol {
                    Symbol::Name(name) => Expr::Index(expression.into(), Expr::Literal(name.into()).into()),
                    Symbol::Star => Expr::Star(expression.into()),
                    _ => {
                        self.at = self.at.saturating_sub(usize::from(token.symbol != Symbol::End));
                        return Err(self.unexpected());
                    }
                };
            } else {
                break;
            }
            self.deeper()?;
        }
        self.depth = depth;
        Ok(expression)
    }

    /// A value, and whether parts of it can be asked for.
    fn value(&mut self) -> Parsed<(Expr, bool)> {
        let token = self.next();
        let literal = match token.symbol {
            Symbol::True => Value::Bool(true),
            Symbol::False => Value::Bool(false),
            Symbol::Null => Value::Null,
            Symbol::Number(number) => Value::Number(number),
            Symbol::Text(text) => Value::String(text),
            Symbol::LeftParen => {
                let inner = self.expression()?;
                self.expect(&Symbol::RightParen)?;
                return Ok((inner, true));
            }
            Symbol::Name(_) if self.accept(&Symbol::LeftParen) => return Ok((self.call(&token)?, true)),
            Symbol::Name(ref name) => return Ok((self.context(&token, name)?, true)),
            Symbol::End => return Err(self.unexpected()),
            _ => {
                self.at -= 1;
                return Err(self.unexpected());
            }
        };
        Ok((Expr::Literal(literal), false))
    }

    fn context(&self, token: &Token, name: &str) -> Parsed {
        if self.contexts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(Expr::Context(name.to_owned()));
        }
        let hint = match closest(name, self.contexts.iter().copied()) {
            Some(meant) => format!("did you mean '{meant}'?"),
            None if self.contexts.is_empty() => "no context can be used here".to_owned(),
            None => format!("here are known: {}", self.contexts.join(", ")),
        };
        let message = format!("there is no '{name}' here");
        Err(SyntaxError { hint: Some(hint), ..error(self.source, token.position, message) })
    }

    fn call(&mut self, name: &Token) -> Parsed {
        let mut args = Vec::new();
        while !self.accept(&Symbol::RightParen) {
            args.push(self.expression()?);
            if self.peek().symbol != Symbol::RightParen {
                self.expect(&Symbol::Comma)?;
            }
        }
        self.check_call(name, args.len())?;
        Ok(Expr::Call(name.text.to_ascii_lowercase(), args))
    }

    fn check_call(&self, name: &Token, count: usize) -> Parsed<()> {
        let failed = |message, hint| {
            Err(SyntaxError { hint: Some(hint), ..error(self.source, name.position, message) })
        };
        let known = self.known().find(|(known, ..)| known.eq_ignore_ascii_case(&name.text));
        let Some((known, takes, fewest, most)) = known else {
            let hint = match closest(&name.text, self.known().map(|(known, ..)| *known)) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("the functions are: {}", self.functions()),
            };
            return failed(format!("there is no function '{}' here", name.text), hint);
        };
        let usage = format!("write {known}({takes})");
        if count < *fewest {
            return failed(format!("'{known}' takes at least {fewest} arguments, not {count}"), usage);
        }
        if count > *most {
            return failed(format!("'{known}' takes at most {most} arguments, not {count}"), usage);
        }
        if *known == "case" && count.is_multiple_of(2) {
            return failed("'case' takes pairs of condition and value, then one more value".into(), usage);
        }
        Ok(())
    }
}
