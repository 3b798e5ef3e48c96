//! Source text to a tree (cel-spec, "Syntax"), macros expanded on the way.

mod lexer;
mod literal;
mod macros;
mod primary;
#[cfg(test)]
mod print;
#[cfg(test)]
mod tests;

use crate::{
    ast::{Expr, Kind, children, op},
    issues::Issues,
};
use lexer::{Tok, Token};

pub(crate) use lexer::{KEYWORDS, RESERVED};

/// Longest expression, in characters.
const MAX_CHARACTERS: usize = 100_000;
/// How deep parentheses, brackets and arguments may be nested.
const MAX_NESTING: u16 = 250;
/// How many calls of the parser may wait for each other: operators within parentheses count as well.
const MAX_WAITING: u16 = 2 * MAX_NESTING;
/// How high a tree may grow, macros expanded: what recursion over it is bounded by.
pub(crate) const MAX_HEIGHT: u16 = 300;
/// How many nodes a tree may have: `optMap` repeats its target, which nested could double without end.
const MAX_NODES: u32 = 200_000;
/// How many bytes of names and texts may be repeated so: a node may be as long as the expression.
const MAX_REPEATED: usize = 4 << 20;

/// Parsing cannot go on; the issue is reported.
#[derive(Debug)]
pub(crate) struct Stop;

type Parsed<T> = Result<T, Stop>;

/// A parsed expression and how many ids its nodes use.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Expr,
    pub(crate) ids: u32,
}

/// Parses `source`, or tells what is wrong with it.
pub(crate) fn parse(source: &str) -> Result<Tree, Issues> {
    parse_with(source, false)
}

/// `keep` leaves calls of macros as they are, to print them again.
fn parse_with(source: &str, keep: bool) -> Result<Tree, Issues> {
    let mut issues = Issues::new(source);
    let size = source.chars().take(MAX_CHARACTERS + 1).count();
    if size > MAX_CHARACTERS {
        let size = source.chars().count();
        let message =
            format!("expression code point size exceeds limit: size: {size}, limit {MAX_CHARACTERS}");
        issues.report(0, message);
        return Err(issues);
    }
    let tokens = lexer::tokens(source, &mut issues);
    let mut parser =
        Parser { source, tokens, next: 0, issues, ids: 0, repeated: 0, nesting: 0, waiting: 0, keep };
    let root = parser.whole();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Tree { root, ids: parser.ids }),
        _ => Err(parser.issues),
    }
}

/// Operators that take two operands, by how tightly they bind.
const BINARY: [(&str, &str, u8); 14] = [
    ("||", op::OR, 1),
    ("&&", op::AND, 2),
    ("<", op::LESS, 3),
    ("<=", op::LESS_EQUALS, 3),
    (">", op::GREATER, 3),
    (">=", op::GREATER_EQUALS, 3),
    ("==", op::EQUALS, 3),
    ("!=", op::NOT_EQUALS, 3),
    ("in", op::IN, 3),
    ("+", op::ADD, 4),
    ("-", op::SUBTRACT, 4),
    ("*", op::MULTIPLY, 5),
    ("/", op::DIVIDE, 5),
    ("%", op::MODULO, 5),
];

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    next: usize,
    issues: Issues,
    ids: u32,
    /// Bytes of names and texts that macros repeated.
    repeated: usize,
    nesting: u16,
    waiting: u16,
    keep: bool,
}

impl Parser<'_> {
    fn whole(&mut self) -> Parsed<Expr> {
        let expr = self.expr()?;
        let token = self.peek();
        if token.kind != Tok::End {
            let single = self.tokens.get(self.next + 1).is_none_or(|t| t.kind == Tok::End);
            let how = if single { "extraneous" } else { "mismatched" };
            return self.syntax(token, format!("{how} input '{}' expecting <EOF>", self.text(token)));
        }
        Ok(expr)
    }

    /// A ternary, or anything that binds tighter.
    fn expr(&mut self) -> Parsed<Expr> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.too_deep();
        }
        let expr = self.ternary();
        self.nesting -= 1;
        expr
    }

    fn too_deep(&mut self) -> Parsed<Expr> {
        let at = self.peek().start as u32;
        self.issues.report(at, format!("expression recursion limit exceeded: {MAX_NESTING}"));
        Err(Stop)
    }

    fn ternary(&mut self) -> Parsed<Expr> {
        let condition = self.binary(1)?;
        let question = self.peek();
        if !self.take("?") {
            return Ok(condition);
        }
        let then = self.binary(1)?;
        self.expect(":")?;
        let otherwise = self.expr()?;
        self.call(question.start, op::CONDITIONAL, vec![condition, then, otherwise])
    }

    /// Operators of at least this precedence, from left to right.
    fn binary(&mut self, least: u8) -> Parsed<Expr> {
        self.waiting += 1;
        if self.waiting > MAX_WAITING {
            return self.too_deep();
        }
        let expr = self.operations(least);
        self.waiting -= 1;
        expr
    }

    fn operations(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        loop {
            let token = self.peek();
            let Some((_, function, level)) = self.operator().filter(|(_, _, level)| *level >= least) else {
                return Ok(left);
            };
            if level <= 2 {
                left = self.logical(left, function, level)?;
                continue;
            }
            self.next += 1;
            let right = self.binary(level + 1)?;
            left = self.call(token.start, function, vec![left, right])?;
        }
    }

    fn operator(&self) -> Option<(&'static str, &'static str, u8)> {
        let Tok::Sign(sign) = self.peek().kind else { return None };
        BINARY.into_iter().find(|(s, _, _)| *s == sign)
    }

    /// All of `a && b && c` at once, as a tree of least height.
    fn logical(&mut self, first: Expr, function: &'static str, level: u8) -> Parsed<Expr> {
        let mut terms = vec![first];
        let mut places = Vec::new();
        while self.operator().is_some_and(|(_, next, _)| next == function) {
            places.push(self.peek().start);
            self.next += 1;
            terms.push(self.binary(level + 1)?);
        }
        self.balanced(function, terms, &places)
    }

    fn balanced(&mut self, function: &'static str, mut terms: Vec<Expr>, places: &[usize]) -> Parsed<Expr> {
        if terms.len() == 1 {
            return terms.pop().ok_or(Stop);
        }
        let middle = terms.len() / 2;
        let right = terms.split_off(middle);
        let at = places.get(middle - 1).copied().unwrap_or_default();
        let left = self.balanced(function, terms, places)?;
        let right = self.balanced(function, right, places.get(middle..).unwrap_or_default())?;
        self.call(at, function, vec![left, right])
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let first = self.peek();
        let sign = match first.kind {
            Tok::Sign("!") => "!",
            Tok::Sign("-") if !self.negative_literal() => "-",
            _ => return self.member(),
        };
        let mut count = 0;
        while self.peek().kind == Tok::Sign(sign) && (sign == "!" || !self.negative_literal()) {
            self.next += 1;
            count += 1;
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        self.call(first.start, if sign == "!" { op::NOT } else { op::NEGATE }, vec![operand])
    }

    /// A minus that belongs to the number after it.
    fn negative_literal(&self) -> bool {
        let after = self.tokens.get(self.next + 1).map(|t| t.kind);
        self.peek().kind == Tok::Sign("-") && matches!(after, Some(Tok::Int | Tok::Float))
    }
}

/// Tokens and nodes.
impl Parser<'_> {
    fn peek(&self) -> Token {
        let end = self.source.len();
        self.tokens.get(self.next).copied().unwrap_or(Token { kind: Tok::End, start: end, end })
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let found = self.peek().kind == Tok::Sign(sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Parsed<Token> {
        let token = self.peek();
        if self.take(sign) {
            return Ok(token);
        }
        if token.kind == Tok::End && sign != ":" {
            return self.syntax(token, format!("missing '{sign}' at '<EOF>'"));
        }
        self.syntax(token, format!("mismatched input '{}' expecting '{sign}'", self.text(token)))
    }

    fn text(&self, token: Token) -> &str {
        if token.kind == Tok::End {
            return "<EOF>";
        }
        self.source.get(token.start..token.end).unwrap_or_default()
    }

    fn syntax<T>(&mut self, token: Token, message: String) -> Parsed<T> {
        self.issues.report(token.start as u32, format!("Syntax error: {message}"));
        Err(Stop)
    }

    /// A node, unless the tree became too high or too large by it.
    fn node(&mut self, at: usize, kind: Kind) -> Parsed<Expr> {
        let mut expr = Expr { id: self.ids, at: at as u32, height: 0, kind };
        expr.height = 1 + children(&expr).iter().map(|child| child.height).max().unwrap_or(0);
        self.ids += 1;
        if expr.height > MAX_HEIGHT {
            self.issues.report(at as u32, "max recursion depth exceeded");
            return Err(Stop);
        }
        if self.ids > MAX_NODES {
            self.issues.report(at as u32, format!("expression has more than {MAX_NODES} parts"));
            return Err(Stop);
        }
        Ok(expr)
    }

    /// Counts what a macro repeats.
    fn repeat(&mut self, at: usize, bytes: usize) -> Parsed<()> {
        self.repeated = self.repeated.saturating_add(bytes);
        if self.repeated > MAX_REPEATED {
            self.issues.report(at as u32, format!("macros repeat more than {MAX_REPEATED} bytes"));
            return Err(Stop);
        }
        Ok(())
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Parsed<Expr> {
        self.node(at, Kind::Call { function: function.to_owned(), target: None, args })
    }

    /// Reports at a place and goes on with a node that means nothing.
    fn wrong(&mut self, at: usize, message: impl Into<String>) -> Parsed<Expr> {
        self.issues.report(at as u32, message);
        self.node(at, Kind::Wrong)
    }
}
