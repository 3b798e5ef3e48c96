//! Tokens to an expression, by precedence climbing.

use wharf_base::closest;

use super::ast::*;
use super::functions;
use super::lex::{AGGREGATORS, Kind, Token, duration_ms, is_aggregator, lex, number_value, unquote};
use super::{ParseError, Span, check};
use crate::metrics::{METRIC_NAME, MatchOp, Matcher};

/// Deeper nesting is refused, so that no query can exhaust the stack.
const DEPTH_LIMIT: usize = 100;
/// A chain of operators nests as deep as it is long.
const OPERATOR_LIMIT: usize = 400;
const TEXT_LIMIT: usize = 1 << 20;

type Parsed<T> = Result<T, ParseError>;

/// Parses and checks a query.
pub(crate) fn parse(input: &str) -> Parsed<Expr> {
    if input.len() > TEXT_LIMIT {
        return Err(ParseError::new(
            "",
            Span::default(),
            format!("the query is longer than {TEXT_LIMIT} bytes"),
        ));
    }
    let mut parser = Parser { input, tokens: lex(input)?, at: 0, depth: 0, operators: 0 };
    if parser.peek().kind == Kind::End {
        return Err(ParseError::new(input, Span::default(), "no expression found in input"));
    }
    let expr = parser.expr(0)?;
    if parser.peek().kind != Kind::End {
        return parser.unexpected("", "");
    }
    check::check(input, &expr)?;
    Ok(expr)
}

/// Parses only a selector, as the API's `match[]` takes it.
pub(crate) fn parse_selector(input: &str) -> Parsed<Vec<Matcher>> {
    let expr = parse(input)?;
    match expr {
        Expr::Vector(selector) if selector.at.is_none() && selector.offset == Length::Fixed(0) => {
            Ok(selector.matchers)
        }
        other => Err(ParseError::new(input, other.span(), "expected a series selector")),
    }
}

struct Parser<'a> {
    input: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
    operators: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.ahead(0)
    }

    fn ahead(&self, n: usize) -> Token<'a> {
        let end = Token {
            kind: Kind::End,
            text: "",
            span: Span { start: self.input.len(), end: self.input.len() },
        };
        self.tokens.get(self.at + n).copied().unwrap_or(end)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take_mark(&mut self, mark: &str) -> bool {
        let is = self.peek().is_mark(mark);
        self.at += usize::from(is);
        is
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = self.peek().is_word(word);
        self.at += usize::from(is);
        is
    }

    fn fail<T>(&self, span: Span, what: impl Into<String>) -> Parsed<T> {
        Err(ParseError::new(self.input, span, what))
    }

    fn unexpected<T>(&self, context: &str, expected: &str) -> Parsed<T> {
        let token = self.peek();
        let mut what = format!("unexpected {}", token.describe());
        if !context.is_empty() {
            what.push_str(&format!(" in {context}"));
        }
        if !expected.is_empty() {
            what.push_str(&format!(", expected {expected}"));
        }
        self.fail(token.span, what)
    }

    fn closing(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |t| t.span.end)
    }

    fn operator(&self) -> Option<BinaryOp> {
        let token = self.peek();
        let word = token.kind == Kind::Operator || token.kind == Kind::Identifier;
        if word { BinaryOp::of(token.text) } else { None }
    }

    fn expr(&mut self, min: u8) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return self
                .fail(self.peek().span, format!("the query is nested more than {DEPTH_LIMIT} levels deep"));
        }
        let mut left = self.unary()?;
        while let Some(op) = self.operator().filter(|op| op.precedence() > min) {
            self.operators += 1;
            if self.operators > OPERATOR_LIMIT {
                return self
                    .fail(self.peek().span, format!("the query has more than {OPERATOR_LIMIT} operators"));
            }
            let op_span = self.next().span;
            let (bool, matching) = self.modifiers()?;
            // Powers bind to the right, all others to the left.
            let right = self.expr(if op == BinaryOp::Pow { op.precedence() - 1 } else { op.precedence() })?;
            let mut matching = matching;
            if op.is_set() && matching.card == Card::OneToOne {
                matching.card = Card::ManyToMany;
            }
            let vectors = left.value_type() == ValueType::Vector && right.value_type() == ValueType::Vector;
            let span = Span { start: left.span().start, end: right.span().end };
            if !vectors {
                self.scalar_matching(&matching, span)?;
            }
            let matching = vectors.then_some(matching);
            left = Expr::Binary(Box::new(Binary { op, left, right, matching, bool, op_span }));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn scalar_matching(&self, matching: &Matching, span: Span) -> Parsed<()> {
        if !matching.labels.is_empty() {
            return self.fail(span, "vector matching only allowed between instant vectors");
        }
        if matching.fill_left.is_some() || matching.fill_right.is_some() {
            return self.fail(span, "filling in missing series only allowed between instant vectors");
        }
        Ok(())
    }

    fn modifiers(&mut self) -> Parsed<(bool, Matching)> {
        let mut matching = Matching {
            card: Card::OneToOne,
            on: false,
            labels: vec![],
            include: vec![],
            fill_left: None,
            fill_right: None,
        };
        let bool = self.take_word("bool");
        let on = self.peek().is_word("on");
        if on || self.peek().is_word("ignoring") {
            self.next();
            matching.on = on;
            matching.labels = self.grouping()?;
            let left = self.peek().is_word("group_left");
            if left || self.peek().is_word("group_right") {
                self.next();
                matching.card = if left { Card::ManyToOne } else { Card::OneToMany };
                // A parenthesis behind group_left always opens its labels.
                if self.peek().is_mark("(") {
                    matching.include = self.grouping()?;
                }
            }
        }
        // `fill` may also be a metric: only with a parenthesis it is a modifier.
        while self.ahead(1).is_mark("(") {
            if self.take_word("fill") {
                let value = self.fill_value()?;
                (matching.fill_left, matching.fill_right) = (Some(value), Some(value));
                break;
            } else if self.peek().is_word("fill_left") && matching.fill_left.is_none() {
                self.next();
                matching.fill_left = Some(self.fill_value()?);
            } else if self.peek().is_word("fill_right") && matching.fill_right.is_none() {
                self.next();
                matching.fill_right = Some(self.fill_value()?);
            } else {
                break;
            }
        }
        Ok((bool, matching))
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.next();
        let value = self.signed_number()?;
        if !self.take_mark(")") {
            return self.unexpected("fill value", "\")\"");
        }
        Ok(value)
    }

    fn signed_number(&mut self) -> Parsed<f64> {
        let sign = self.peek();
        let negative = sign.kind == Kind::Operator && sign.text == "-";
        if negative || (sign.kind == Kind::Operator && sign.text == "+") {
            self.next();
        }
        let (value, _) = self.number()?;
        Ok(if negative { -value } else { value })
    }

    /// A number or duration, in seconds.
    fn number(&mut self) -> Parsed<(f64, bool)> {
        let token = self.peek();
        let value = match token.kind {
            Kind::Number => match number_value(token.text) {
                Some(value) => (value, false),
                None => return self.fail(token.span, format!("error parsing number: {:?}", token.text)),
            },
            Kind::Duration => match duration_ms(token.text) {
                Ok(ms) => (ms as f64 / 1000.0, true),
                Err(what) => return self.fail(token.span, what),
            },
            _ => return self.unexpected("", ""),
        };
        self.next();
        Ok(value)
    }

    fn grouping(&mut self) -> Parsed<Vec<String>> {
        if !self.take_mark("(") {
            return self.unexpected("grouping opts", "\"(\"");
        }
        let mut labels = Vec::new();
        loop {
            if self.take_mark(")") {
                return Ok(labels);
            }
            let token = self.peek();
            match token.kind {
                Kind::Identifier | Kind::Metric => labels.push(token.text.to_string()),
                Kind::String => {
                    let name = unquote(token.text).or_else(|what| self.fail(token.span, what))?;
                    if name.is_empty() {
                        return self.fail(token.span, "invalid label name for grouping: \"\"");
                    }
                    labels.push(name);
                }
                // The lexer knows these words as numbers, but they are fine label names.
                Kind::Number if token.text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                    labels.push(token.text.to_string());
                }
                _ => return self.unexpected("grouping opts", "label"),
            }
            self.next();
            if !self.take_mark(",") && !self.peek().is_mark(")") {
                return self.unexpected("grouping opts", "\",\" or \")\"");
            }
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let token = self.peek();
        let sign = token.kind == Kind::Operator && matches!(token.text, "+" | "-");
        if !sign {
            let primary = self.primary()?;
            return self.postfix(primary);
        }
        self.next();
        let minus = token.text == "-";
        // Only a power binds tighter than a sign.
        let inner = self.expr(BinaryOp::Mul.precedence())?;
        Ok(match inner {
            Expr::Number { value, duration, span } => Expr::Number {
                value: if minus { -value } else { value },
                duration,
                span: Span { start: token.span.start, end: span.end },
            },
            other => Expr::Unary { minus, expr: Box::new(other), start: token.span.start },
        })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek();
        let call = self.ahead(1).is_mark("(");
        match token.kind {
            Kind::Number | Kind::Duration => {
                let (value, duration) = self.number()?;
                Ok(Expr::Number { value, duration, span: token.span })
            }
            Kind::String => {
                self.next();
                match unquote(token.text) {
                    Ok(value) => Ok(Expr::String { value, span: token.span }),
                    Err(what) => self.fail(token.span, what),
                }
            }
            Kind::Mark if token.text == "(" => {
                self.next();
                let inner = self.expr(0)?;
                if !self.take_mark(")") {
                    return self.unexpected("", "");
                }
                Ok(Expr::Paren(Box::new(inner), Span { start: token.span.start, end: self.closing() }))
            }
            Kind::Mark if token.text == "{" => self.selector(""),
            Kind::Identifier if is_aggregator(token.text) => {
                let next = self.ahead(1);
                if call || next.is_word("by") || next.is_word("without") {
                    self.aggregate()
                } else {
                    self.named_selector()
                }
            }
            Kind::Identifier if call => self.call(),
            Kind::Identifier | Kind::Metric => self.named_selector(),
            _ => self.unexpected("", ""),
        }
    }

    fn named_selector(&mut self) -> Parsed<Expr> {
        let token = self.peek();
        const NEVER: [&str; 6] = ["on", "ignoring", "group_left", "group_right", "bool", "atan2"];
        if NEVER.iter().any(|word| token.is_word(word)) {
            return self.unexpected("", "");
        }
        self.next();
        self.selector(token.text)
    }

    /// Matchers, after the name was read.
    fn selector(&mut self, name: &str) -> Parsed<Expr> {
        let start = if name.is_empty() { self.peek().span.start } else { self.closing() - name.len() };
        let mut matchers = Vec::new();
        if self.take_mark("{") {
            self.matchers(&mut matchers)?;
        }
        if !name.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        Ok(Expr::Vector(Box::new(Selector {
            name: name.to_string(),
            matchers,
            offset: Length::Fixed(0),
            at: None,
            anchored: false,
            smoothed: false,
            span: Span { start, end: self.closing() },
        })))
    }

    fn matchers(&mut self, out: &mut Vec<Matcher>) -> Parsed<()> {
        loop {
            if self.take_mark("}") {
                return Ok(());
            }
            let token = self.peek();
            let name = match token.kind {
                Kind::Identifier => token.text.to_string(),
                Kind::String => unquote(token.text).or_else(|what| self.fail(token.span, what))?,
                _ => return self.unexpected("label matching", "identifier or \"}\""),
            };
            self.next();
            let op = self.peek();
            let parsed = match (op.kind, op.text) {
                (Kind::Mark, "=") => Some(MatchOp::Equal),
                (Kind::Operator, "!=") => Some(MatchOp::NotEqual),
                (Kind::Operator, "=~") => Some(MatchOp::Regex),
                (Kind::Operator, "!~") => Some(MatchOp::NotRegex),
                _ => None,
            };
            match parsed {
                None if token.kind == Kind::String => out.push(Matcher::equal(METRIC_NAME, name)),
                None => return self.unexpected("label matching", "label matching operator"),
                Some(op) => {
                    self.next();
                    let value = self.peek();
                    if value.kind != Kind::String {
                        return self.unexpected("label matching", "string");
                    }
                    let text = unquote(value.text).or_else(|what| self.fail(value.span, what))?;
                    self.next();
                    let span = Span { start: token.span.start, end: value.span.end };
                    out.push(Matcher::new(op, name, text).or_else(|what| self.fail(span, what))?);
                }
            }
            if !self.take_mark(",") && !self.peek().is_mark("}") {
                return self.unexpected("label matching", "\",\" or \"}\"");
            }
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.next();
        let mut args = Vec::new();
        if self.take_mark(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expr(0)?);
            if self.take_mark(")") {
                return Ok(args);
            }
            let comma = self.peek();
            if !self.take_mark(",") {
                return self.unexpected("", "");
            }
            if self.peek().is_mark(")") {
                return self.fail(comma.span, "trailing commas not allowed in function call args");
            }
        }
    }

    fn call(&mut self) -> Parsed<Expr> {
        let name = self.next();
        // Keywords that are functions too are known in any case.
        let Some(function) = functions::find(name.text) else {
            return Err(self.unknown_function(name));
        };
        let args = self.arguments()?;
        let span = Span { start: name.span.start, end: self.closing() };
        Ok(Expr::Call(Box::new(Call { function, args, span })))
    }

    /// Apart from what nests, whose frames must stay small.
    #[cold]
    #[inline(never)]
    fn unknown_function(&self, name: Token<'_>) -> ParseError {
        let what = format!("unknown function with name {}", crate::metrics::quote(name.text));
        let known = functions::names().chain(AGGREGATORS);
        let hint = closest(name.text, known).map(|meant| format!("did you mean '{meant}'?").into());
        ParseError { hint, ..ParseError::new(self.input, name.span, what) }
    }

    fn aggregate(&mut self) -> Parsed<Expr> {
        let word = self.next();
        let Some(op) = Aggregator::of(word.text) else { return self.unexpected("", "") };
        let mut modifier = self.aggregate_modifier()?;
        if !self.peek().is_mark("(") {
            return self.unexpected("aggregation", "");
        }
        let mut args = self.arguments()?;
        let end = self.closing();
        if modifier.is_none() {
            modifier = self.aggregate_modifier()?;
        }
        let end = if modifier.is_some() { self.closing() } else { end };
        let span = Span { start: word.span.start, end };
        let want = 1 + usize::from(op.has_parameter());
        if args.is_empty() {
            return self.fail(span, "no arguments for aggregate expression provided");
        }
        if args.len() != want {
            return self.fail(
                span,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {want}, got {}",
                    args.len()
                ),
            );
        }
        let Some(expr) = args.pop() else { return self.unexpected("", "") };
        let (grouping, without) = modifier.unwrap_or_default();
        Ok(Expr::Aggregate(Box::new(Aggregate { op, expr, param: args.pop(), grouping, without, span })))
    }

    fn aggregate_modifier(&mut self) -> Parsed<Option<(Vec<String>, bool)>> {
        let without = self.peek().is_word("without");
        if !without && !self.peek().is_word("by") {
            return Ok(None);
        }
        self.next();
        Ok(Some((self.grouping()?, without)))
    }

    /// Ranges, offsets and `@` behind an expression.
    fn postfix(&mut self, mut expr: Expr) -> Parsed<Expr> {
        loop {
            let token = self.peek();
            if token.is_mark("[") {
                expr = self.brackets(expr)?;
            } else if token.is_word("offset") {
                self.next();
                self.offset(&mut expr)?;
            } else if token.kind == Kind::Operator && token.text == "@" {
                self.next();
                self.at_modifier(&mut expr)?;
            } else if token.is_word("anchored") || token.is_word("smoothed") {
                self.next();
                self.extended(&mut expr, token.text.eq_ignore_ascii_case("smoothed"))?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn brackets(&mut self, expr: Expr) -> Parsed<Expr> {
        let open = self.next();
        const EXPECTED: &str = "number, duration, step(), or range()";
        let range = self.positive("subquery or range selector", EXPECTED)?;
        if self.take_mark("]") {
            let end = self.closing();
            let span = Span { start: open.span.start, end };
            let Expr::Vector(selector) = expr else {
                return self.fail(span, "ranges only allowed for vector selectors");
            };
            if selector.offset != Length::Fixed(0) {
                return self.fail(span, "no offset modifiers allowed before range");
            }
            if selector.at.is_some() {
                return self.fail(span, "no @ modifiers allowed before range");
            }
            return Ok(Expr::Matrix(Box::new(Range { selector: *selector, range, end })));
        }
        if !self.take_mark(":") {
            return self.unexpected("subquery or range", "\":\" or \"]\"");
        }
        let step = match self.peek().is_mark("]") {
            true => None,
            false => Some(self.positive("subquery selector", "number, duration, step(), range(), or \"]\"")?),
        };
        if !self.take_mark("]") {
            return self.unexpected("subquery selector", "\"]\"");
        }
        let end = self.closing();
        Ok(Expr::Subquery(Box::new(Subquery { expr, range, step, offset: Length::Fixed(0), at: None, end })))
    }

    fn positive(&mut self, context: &str, expected: &str) -> Parsed<Length> {
        let expr = self.duration(0, context, expected)?;
        match expr.op {
            DurationOp::Number(value, _) if value <= 0.0 || value.is_nan() => {
                self.fail(expr.span, "duration must be greater than 0")
            }
            _ => Ok(length(expr)),
        }
    }

    fn offset(&mut self, expr: &mut Expr) -> Parsed<()> {
        const EXPECTED: &str = "number, duration, step(), or range()";
        // A sign and one operand: anything more needs parentheses.
        let sign = self.peek();
        let signed = sign.kind == Kind::Operator && matches!(sign.text, "+" | "-");
        self.at += usize::from(signed);
        let operand = self.duration(6, "offset", EXPECTED)?;
        let value = if signed { with_sign(sign, operand) } else { operand };
        let end = self.closing();
        let span = expr.span();
        let (slot, at) = match expr {
            Expr::Vector(selector) => (&mut selector.offset, &mut selector.span.end),
            Expr::Matrix(range) => (&mut range.selector.offset, &mut range.end),
            Expr::Subquery(sub) => (&mut sub.offset, &mut sub.end),
            _ => {
                return self.fail(
                    span,
                    "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
                );
            }
        };
        if *slot != Length::Fixed(0) {
            return self.fail(span, "offset may not be set multiple times");
        }
        *slot = length(value);
        *at = end;
        Ok(())
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Parsed<()> {
        let token = self.peek();
        let span = expr.span();
        let at = if (token.is_word("start") || token.is_word("end")) && self.ahead(1).is_mark("(") {
            self.at += 2;
            if !self.take_mark(")") {
                return self.unexpected("@", "timestamp");
            }
            if token.is_word("start") { At::Start } else { At::End }
        } else {
            let sign = token.kind == Kind::Operator && matches!(token.text, "+" | "-");
            let number = if sign { self.ahead(1) } else { token };
            if !matches!(number.kind, Kind::Number | Kind::Duration) {
                return self.unexpected("@", "timestamp");
            }
            let seconds = self.signed_number()?;
            if !seconds.is_finite() || seconds.abs() >= i64::MAX as f64 {
                let shown = if seconds.is_infinite() {
                    if seconds > 0.0 { "+Inf".into() } else { "-Inf".to_string() }
                } else {
                    format!("{seconds:.6}")
                };
                return self.fail(span, format!("timestamp out of bounds for @ modifier: {shown}"));
            }
            At::Time((seconds * 1000.0).round() as i64)
        };
        let end = self.closing();
        let (slot, place) = match expr {
            Expr::Vector(selector) => (&mut selector.at, &mut selector.span.end),
            Expr::Matrix(range) => (&mut range.selector.at, &mut range.end),
            Expr::Subquery(sub) => (&mut sub.at, &mut sub.end),
            _ => {
                return self.fail(
                    span,
                    "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
                );
            }
        };
        if slot.is_some() {
            return self.fail(span, "@ <timestamp> may not be set multiple times");
        }
        *slot = Some(at);
        *place = end;
        Ok(())
    }

    fn extended(&mut self, expr: &mut Expr, smoothed: bool) -> Parsed<()> {
        let word = if smoothed { "smoothed" } else { "anchored" };
        let span = expr.span();
        let selector = match expr {
            Expr::Vector(selector) => &mut **selector,
            Expr::Matrix(range) => &mut range.selector,
            Expr::Subquery(_) => {
                return self.fail(span, format!("{word} modifier is not supported for subqueries"));
            }
            _ => return self.fail(span, format!("{word} modifier not implemented")),
        };
        selector.smoothed |= smoothed;
        selector.anchored |= !smoothed;
        if selector.smoothed && selector.anchored {
            return self.fail(span, "anchored and smoothed modifiers cannot be used together");
        }
        Ok(())
    }

    fn duration(&mut self, min: u8, context: &str, expected: &str) -> Parsed<DurationExpr> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return self
                .fail(self.peek().span, format!("the query is nested more than {DEPTH_LIMIT} levels deep"));
        }
        let mut left = self.duration_primary(context, expected)?;
        loop {
            let token = self.peek();
            let op =
                BinaryOp::of(token.text).filter(|op| token.kind == Kind::Operator && op.precedence() > 3);
            let Some(op) = op.filter(|op| op.precedence() > min) else { break };
            self.next();
            let right =
                self.duration(if op == BinaryOp::Pow { 5 } else { op.precedence() }, context, expected)?;
            if matches!(right.op, DurationOp::Number(0.0, _)) && matches!(op, BinaryOp::Div | BinaryOp::Mod) {
                let what = if op == BinaryOp::Div { "division by zero" } else { "modulo by zero" };
                return self.fail(token.span, what);
            }
            let span = Span { start: left.span.start, end: right.span.end };
            let sign = token.text.chars().next().unwrap_or('+');
            left = DurationExpr { op: DurationOp::Binary(sign), args: vec![left, right], span };
        }
        self.depth -= 1;
        Ok(left)
    }

    fn duration_primary(&mut self, context: &str, expected: &str) -> Parsed<DurationExpr> {
        let token = self.peek();
        let call = self.ahead(1).is_mark("(");
        let node = |op, args, end| DurationExpr { op, args, span: Span { start: token.span.start, end } };
        if matches!(token.kind, Kind::Number | Kind::Duration) {
            let (value, unit) = self.number()?;
            if value.is_nan() || value.abs() >= i64::MAX as f64 / 1e9 {
                return self.fail(token.span, "duration out of range");
            }
            return Ok(node(DurationOp::Number(value, unit), vec![], token.span.end));
        }
        if token.kind == Kind::Operator && matches!(token.text, "+" | "-") {
            self.next();
            let inner = self.duration(BinaryOp::Mul.precedence().max(5), context, expected)?;
            return Ok(with_sign(token, inner));
        }
        if token.is_mark("(") {
            self.next();
            let inner = self.duration(0, context, expected)?;
            if !self.take_mark(")") {
                return self.unexpected(context, "\")\"");
            }
            return Ok(node(DurationOp::Paren, vec![inner], self.closing()));
        }
        if call && (token.is_word("step") || token.is_word("range")) {
            self.at += 2;
            if !self.take_mark(")") {
                return self.unexpected(context, "\")\"");
            }
            let op = if token.is_word("step") { DurationOp::Step } else { DurationOp::Range };
            return Ok(node(op, vec![], self.closing()));
        }
        if call && (token.is_word("min_of") || token.is_word("max_of")) {
            self.at += 2;
            let first = self.duration(0, context, expected)?;
            if !self.take_mark(",") {
                return self.unexpected(context, "\",\"");
            }
            let second = self.duration(0, context, expected)?;
            if !self.take_mark(")") {
                return self.unexpected(context, "\")\"");
            }
            let op = if token.is_word("min_of") { DurationOp::Min } else { DurationOp::Max };
            return Ok(node(op, vec![first, second], self.closing()));
        }
        self.unexpected(context, expected)
    }
}

fn with_sign(sign: Token<'_>, operand: DurationExpr) -> DurationExpr {
    let minus = sign.text == "-";
    let span = Span { start: sign.span.start, end: operand.span.end };
    match operand.op {
        DurationOp::Number(value, unit) => DurationExpr {
            op: DurationOp::Number(if minus { -value } else { value }, unit),
            args: vec![],
            span,
        },
        _ => DurationExpr {
            op: if minus { DurationOp::Minus } else { DurationOp::Plus },
            args: vec![operand],
            span,
        },
    }
}

fn length(expr: DurationExpr) -> Length {
    match expr.op {
        DurationOp::Number(seconds, _) => Length::Fixed((seconds * 1000.0).round() as i64),
        _ => Length::Computed(Box::new(expr)),
    }
}
