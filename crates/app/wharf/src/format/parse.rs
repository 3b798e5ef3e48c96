//! From tokens to the tree.

use super::MAX_NESTING;
use super::functions;
use super::lex::{Keyword, Kind, Token, tokens};
use super::literal::{self, quote};
use super::tree::{Branch, Command, Operand, OperandKind, Pipe, Statement};

/// The tree of a template, or what is wrong and in which line.
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, String> {
    let tokens = tokens(text);
    let mut parser = Parser {
        tokens: &tokens,
        next: 0,
        furthest: 0,
        action: None,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
    };
    let parsed = parser.template();
    parsed.map_err(|wrong| format!("template: :{}: {wrong}", parser.line()))
}

struct Parser<'t> {
    tokens: &'t [Token<'t>],
    next: usize,
    /// The last token that was looked at: errors name its line.
    furthest: usize,
    /// The line in which the action being read begins.
    action: Option<usize>,
    /// Variables known at this place.
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
}

/// What ended a list of statements.
#[derive(PartialEq, Eq)]
enum Ending {
    End,
    Else,
}

impl Ending {
    fn written(&self) -> &'static str {
        match self {
            Ending::End => "{{end}}",
            Ending::Else => "{{else}}",
        }
    }
}

enum Part {
    Statement(Statement),
    Ending(Ending),
}

type Parsed<T> = Result<T, String>;

static NOTHING: Token<'static> =
    Token { kind: Kind::End, text: std::borrow::Cow::Borrowed(""), at: 0, line: 1, spaced: false };

impl<'t> Parser<'t> {
    fn token(&mut self, ahead: usize) -> &'t Token<'t> {
        // The last token ends everything: whoever goes on sees it again.
        let index = (self.next + ahead).min(self.tokens.len().saturating_sub(1));
        self.furthest = self.furthest.max(index);
        self.tokens.get(index).unwrap_or(&NOTHING)
    }

    fn peek(&mut self) -> &'t Token<'t> {
        self.token(0)
    }

    fn take(&mut self) -> &'t Token<'t> {
        let token = self.token(0);
        self.next += 1;
        token
    }

    fn line(&self) -> usize {
        self.tokens.get(self.furthest).map_or(1, |token| token.line)
    }

    fn unexpected<T>(&self, token: &Token<'_>, context: &str) -> Parsed<T> {
        if token.kind != Kind::Wrong {
            return Err(format!("unexpected {} in {context}", shown(token)));
        }
        let started = self.action.filter(|line| *line != token.line).map_or(String::new(), |line| {
            let action = if token.text.ends_with(" action") { "" } else { " in action" };
            format!("{action} started at :{line}")
        });
        Err(format!("{}{started}", token.text))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Parsed<()> {
        let token = self.take();
        if token.kind == kind { Ok(()) } else { self.unexpected(token, context) }
    }

    /// One level deeper, for blocks and parentheses.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_NESTING {
            return Err(format!("nested deeper than {MAX_NESTING} levels"));
        }
        self.depth += 1;
        let parsed = inner(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    fn template(&mut self) -> Parsed<Vec<Statement>> {
        let mut body = Vec::new();
        while self.peek().kind != Kind::End {
            if self.peek().kind == Kind::Open && self.token(1).kind == Kind::Keyword(Keyword::Define) {
                return Err("{{define}} is not supported".into());
            }
            match self.part()? {
                Part::Statement(statement) => body.push(statement),
                Part::Ending(ending) => return Err(format!("unexpected {}", ending.written())),
            }
        }
        Ok(body)
    }

    fn list(&mut self) -> Parsed<(Vec<Statement>, Ending)> {
        let mut list = Vec::new();
        while self.peek().kind != Kind::End {
            match self.part()? {
                Part::Statement(statement) => list.push(statement),
                Part::Ending(ending) => return Ok((list, ending)),
            }
        }
        Err("unexpected EOF".into())
    }

    fn part(&mut self) -> Parsed<Part> {
        let token = self.take();
        match token.kind {
            Kind::Text => Ok(Part::Statement(Statement::Text(token.text.clone().into_owned()))),
            Kind::Open => {
                self.action = Some(token.line);
                let part = self.action()?;
                self.action = None;
                Ok(part)
            }
            _ => self.unexpected(token, "input"),
        }
    }

    fn action(&mut self) -> Parsed<Part> {
        let Kind::Keyword(keyword) = self.peek().kind else { return self.command_action() };
        let statement = match keyword {
            Keyword::Dot | Keyword::Nil | Keyword::Define => return self.command_action(),
            Keyword::Else => {
                self.take();
                let chained = [Keyword::If, Keyword::With].map(Kind::Keyword).contains(&self.peek().kind);
                if !chained {
                    self.expect(Kind::Close, "else")?;
                }
                return Ok(Part::Ending(Ending::Else));
            }
            Keyword::End => {
                self.take();
                self.expect(Kind::Close, "end")?;
                return Ok(Part::Ending(Ending::End));
            }
            Keyword::Block => return Err("{{block}} is not supported".into()),
            Keyword::Template => return Err("{{template}} is not supported".into()),
            Keyword::Break => self.leave("{{break}}", Statement::Break)?,
            Keyword::Continue => self.leave("{{continue}}", Statement::Continue)?,
            Keyword::If => self.block(|parser| parser.branch(false))?,
            Keyword::With => self.block(|parser| parser.branch(true))?,
            Keyword::Range => self.block(Self::range)?,
        };
        Ok(Part::Statement(statement))
    }

    fn command_action(&mut self) -> Parsed<Part> {
        // Its variables stay known until the block around it ends.
        Ok(Part::Statement(Statement::Action(self.pipeline("command", Kind::Close)?)))
    }

    fn leave(&mut self, written: &str, statement: Statement) -> Parsed<Statement> {
        self.take();
        self.expect(Kind::Close, written)?;
        if self.ranges == 0 { Err(format!("{written} outside {{{{range}}}}")) } else { Ok(statement) }
    }

    /// A block: its variables end with it.
    fn block(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<Statement>) -> Parsed<Statement> {
        self.take();
        let known = self.variables.len();
        let statement = self.nested(inner)?;
        self.variables.truncate(known);
        Ok(statement)
    }

    fn range(&mut self) -> Parsed<Statement> {
        let pipe = self.pipeline("range", Kind::Close)?;
        self.ranges += 1;
        let (body, ending) = self.list()?;
        self.ranges -= 1;
        let otherwise = self.otherwise(ending)?;
        Ok(Statement::Range { pipe, body, otherwise })
    }

    fn branch(&mut self, with: bool) -> Parsed<Statement> {
        let (context, again) = if with { ("with", Keyword::With) } else { ("if", Keyword::If) };
        let mut arms = Vec::new();
        loop {
            let pipe = self.pipeline(context, Kind::Close)?;
            let (body, ending) = self.list()?;
            arms.push((pipe, body));
            if ending == Ending::Else && self.peek().kind == Kind::Keyword(again) {
                self.take();
                continue;
            }
            let otherwise = self.otherwise(ending)?;
            return Ok(Statement::Branch(Branch { with, arms, otherwise }));
        }
    }

    fn otherwise(&mut self, ending: Ending) -> Parsed<Vec<Statement>> {
        if ending == Ending::End {
            return Ok(Vec::new());
        }
        let (otherwise, ending) = self.list()?;
        match ending {
            Ending::End => Ok(otherwise),
            Ending::Else => Err(format!("expected end; found {}", ending.written())),
        }
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Parsed<Pipe> {
        let at = self.peek().at;
        let (variables, assign) = self.variables(context)?;
        let mut commands = Vec::new();
        while self.peek().kind != end {
            let token = self.peek();
            if !starts_operand(token.kind) {
                return self.unexpected(token, context);
            }
            commands.push(self.command()?);
        }
        self.take();
        if commands.is_empty() {
            return Err(format!("missing value for {context}"));
        }
        match commands.iter().skip(1).position(|command: &Command| is_constant(&command.first.kind)) {
            Some(index) => Err(format!("non executable command in pipeline stage {}", index + 2)),
            None => Ok(Pipe { at, variables, assign, commands }),
        }
    }

    /// The variables before `:=` or `=`, and whether it was `=`.
    fn variables(&mut self, context: &str) -> Parsed<(Vec<String>, bool)> {
        let mut variables = Vec::new();
        while self.peek().kind == Kind::Variable {
            let next = self.token(1);
            let comma = next.kind == Kind::Sign && next.text == ",";
            if !comma && !matches!(next.kind, Kind::Assign | Kind::Declare) {
                break;
            }
            let name = self.take().text.clone().into_owned();
            self.take();
            self.variables.push(name.clone());
            variables.push(name);
            if !comma {
                return Ok((variables, next.kind == Kind::Assign));
            }
            if context != "range" || variables.len() > 1 {
                return Err(format!("too many declarations in {context}"));
            }
            if !matches!(self.peek().kind, Kind::Variable | Kind::Close | Kind::RightParen) {
                return Err("range can only initialize variables".into());
            }
        }
        Ok((variables, false))
    }

    fn command(&mut self) -> Parsed<Command> {
        let at = self.peek().at;
        let mut operands = Vec::new();
        let mut gap = None;
        loop {
            operands.extend(self.operand()?);
            let token = self.peek();
            match token.kind {
                _ if token.spaced && gap != Some(self.next) => gap = Some(self.next),
                Kind::Close | Kind::RightParen => break,
                Kind::Pipe => {
                    self.take();
                    break;
                }
                _ => return self.unexpected(token, "operand"),
            }
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or("empty command")?;
        Ok(Command { at, first, arguments: operands.collect() })
    }

    /// A term with the fields that follow it without a space; none if no term stands here.
    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let Some(term) = self.term()? else { return Ok(None) };
        let mut names = Vec::new();
        let mut at = None;
        while let Some(field) = self.adjacent_field() {
            at = at.or(Some(field.at));
            names.push(field.text.trim_start_matches('.').to_owned());
        }
        let Some(at) = at else { return Ok(Some(term)) };
        let kind = match term.kind {
            OperandKind::Fields(mut before) => {
                before.append(&mut names);
                OperandKind::Fields(before)
            }
            OperandKind::Variable(name, _) => OperandKind::Variable(name, names),
            OperandKind::Pipe(_) | OperandKind::Function(_) | OperandKind::Chain(..) => {
                OperandKind::Chain(Box::new(term), names)
            }
            OperandKind::Nil => return Err("unexpected . after term \"nil\"".into()),
            _ => return Err(format!("unexpected . after term {}", quote(&term.to_string(), false))),
        };
        Ok(Some(Operand { at, kind }))
    }

    /// Takes a field that follows without white space. What stands behind white space is not looked at.
    fn adjacent_field(&mut self) -> Option<&'t Token<'t>> {
        let adjacent = self.tokens.get(self.next).is_some_and(|token| !token.spaced);
        (adjacent && self.peek().kind == Kind::Field).then(|| self.take())
    }

    fn term(&mut self) -> Parsed<Option<Operand>> {
        let token = self.peek();
        if !starts_operand(token.kind) {
            return Ok(None);
        }
        self.take();
        let text = token.text.as_ref();
        let kind = match token.kind {
            Kind::Identifier => match functions::find(text) {
                Some(function) => OperandKind::Function(function),
                None => return Err(format!("function {} not defined", quote(text, false))),
            },
            Kind::Keyword(Keyword::Dot) => OperandKind::Dot,
            Kind::Keyword(_) => OperandKind::Nil,
            Kind::Variable if self.variables.iter().any(|known| known == text) => {
                OperandKind::Variable(text.to_owned(), Vec::new())
            }
            Kind::Variable => return Err(format!("undefined variable {}", quote(text, false))),
            Kind::Field => OperandKind::Fields(vec![text.trim_start_matches('.').to_owned()]),
            Kind::Bool => OperandKind::Bool(text == "true"),
            Kind::Character => OperandKind::Number(literal::character(text)?),
            Kind::Quoted | Kind::Raw => OperandKind::Text(text.to_owned(), literal::unquote(text)?),
            Kind::LeftParen => {
                let pipe =
                    self.nested(|parser| parser.pipeline("parenthesized pipeline", Kind::RightParen))?;
                return Ok(Some(Operand { at: pipe.at, kind: OperandKind::Pipe(pipe) }));
            }
            _ => OperandKind::Number(literal::number(text)?),
        };
        Ok(Some(Operand { at: token.at, kind }))
    }
}

fn starts_operand(kind: Kind) -> bool {
    use Kind::*;
    matches!(
        kind,
        Bool | Character
            | Complex
            | Field
            | Identifier
            | Number
            | Raw
            | Quoted
            | Variable
            | LeftParen
            | Keyword(super::lex::Keyword::Dot | super::lex::Keyword::Nil)
    )
}

fn is_constant(kind: &OperandKind) -> bool {
    use OperandKind::*;
    matches!(kind, Bool(_) | Dot | Nil | Number(_) | Text(..))
}

/// A token as errors show it, cut to ten characters.
fn shown(token: &Token<'_>) -> String {
    match token.kind {
        Kind::End => "EOF".to_owned(),
        Kind::Keyword(_) => format!("<{}>", token.text),
        _ if token.text.len() > 10 => {
            let start: String = token.text.chars().take(10).collect();
            format!("{}...", quote(&start, false))
        }
        _ => quote(&token.text, false),
    }
}
