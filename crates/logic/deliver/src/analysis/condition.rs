//! The expressions of success and failure conditions (a part of expr-lang's grammar, which Argo Rollouts uses):
//! literals, `result` and its members, arithmetic, comparison, logic, and the functions metrics need.

use serde_json::Value;

/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 64;
/// Longest expression in bytes.
const MAX_LENGTH: usize = 4096;

/// What a condition is asked about.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    /// Nothing.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Datum>),
    /// Members by name.
    Map(Vec<(String, Datum)>),
}

impl From<&Value> for Datum {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nil,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => Self::Number(n.as_f64().unwrap_or(f64::NAN)),
            Value::String(s) => Self::Text(s.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(fields) => {
                Self::Map(fields.iter().map(|(name, value)| (name.clone(), Self::from(value))).collect())
            }
        }
    }
}

impl Datum {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    fn number(&self) -> Result<f64, String> {
        match self {
            Self::Number(n) => Ok(*n),
            other => Err(format!("expected a number, found {}", other.kind())),
        }
    }

    fn truth(&self) -> Result<bool, String> {
        match self {
            Self::Bool(b) => Ok(*b),
            other => Err(format!("expected true or false, found {}", other.kind())),
        }
    }
}

/// Evaluates a condition on a measured result.
///
/// # Errors
/// When the condition cannot be read, or does not fit the result; the text names the place.
pub fn holds(condition: &str, result: &Datum) -> Result<bool, String> {
    if condition.len() > MAX_LENGTH {
        return Err(format!("the condition is longer than {MAX_LENGTH} bytes"));
    }
    let tokens = tokens(condition)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, result, item: None };
    let value = parser.ternary(true)?;
    if let Some((place, _)) = parser.tokens.get(parser.at) {
        return Err(format!("unexpected text at column {} of {condition:?}", place + 1));
    }
    value.truth().map_err(|e| format!("{condition:?}: {e}"))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    Text(String),
    Name(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "**", "?.", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")", "[",
    "]", "{", "}", ",", ".", "?", ":",
];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let bad = |what: &str| format!("{what} at column {} of {text:?}", at + 1);
        let take = |rest: &str, accept: fn(char) -> bool| rest.find(|c| !accept(c)).unwrap_or(rest.len());
        let (token, length) = if first.is_ascii_digit() {
            let length = number_length(rest);
            let number = rest.get(..length).and_then(|n| n.replace('_', "").parse().ok());
            (Token::Number(number.ok_or_else(|| bad("a number that cannot be read"))?), length)
        } else if first.is_alphabetic() || matches!(first, '_' | '#' | '$') {
            let length = first.len_utf8()
                + take(rest.get(first.len_utf8()..).unwrap_or(""), |c| c.is_alphanumeric() || c == '_');
            (Token::Name(rest.get(..length).unwrap_or("").to_owned()), length)
        } else if matches!(first, '"' | '\'') {
            let inner = rest.get(1..).unwrap_or("");
            let end = inner.find(first).ok_or_else(|| bad("a text without an end"))?;
            (Token::Text(inner.get(..end).unwrap_or("").to_owned()), end + 2)
        } else {
            let symbol = SYMBOLS.iter().find(|s| rest.starts_with(**s));
            let symbol = symbol.ok_or_else(|| bad(&format!("unexpected {first:?}")))?;
            (Token::Symbol(symbol), symbol.len())
        };
        tokens.push((at, token));
        rest = rest.get(length..).unwrap_or("");
    }
}

/// Digits, a fraction and an exponent.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(|b| b.is_ascii_digit() || *b == b'_') {
            at += 1;
        }
        at
    };
    let mut at = digits(0);
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        if bytes.get(at + 1 + sign).is_some_and(u8::is_ascii_digit) {
            at = digits(at + 1 + sign);
        }
    }
    at
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    depth: usize,
    result: &'a Datum,
    /// What `#` stands for inside a predicate.
    item: Option<Datum>,
}

type Parsed = Result<Datum, String>;

/// `live` is false where the value is not used: members are not looked up and types not checked there.
impl Parser<'_> {
    fn symbol(&mut self, options: &[&'static str]) -> Option<&'static str> {
        match self.tokens.get(self.at) {
            Some((_, Token::Symbol(symbol))) if options.contains(symbol) => {
                self.at += 1;
                Some(symbol)
            }
            _ => None,
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some((_, Token::Name(name))) if name == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), String> {
        self.symbol(&[symbol]).map(drop).ok_or_else(|| match self.tokens.get(self.at) {
            Some((place, _)) => format!("expected {symbol:?} at column {}", place + 1),
            None => format!("expected {symbol:?} at the end"),
        })
    }

    fn ternary(&mut self, live: bool) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the condition is nested too deeply".into());
        }
        let condition = self.or(live)?;
        let value = if self.symbol(&["?"]).is_some() {
            let chosen = live && condition.truth()?;
            let yes = self.ternary(chosen)?;
            self.expect(":")?;
            let no = self.ternary(live && !chosen)?;
            if chosen { yes } else { no }
        } else {
            condition
        };
        self.depth -= 1;
        Ok(value)
    }

    fn or(&mut self, live: bool) -> Parsed {
        let mut left = self.and(live)?;
        while self.symbol(&["||"]).is_some() || self.word("or") {
            let decided = live && left.truth()?;
            let right = self.and(live && !decided)?;
            left = Datum::Bool(if live && !decided { right.truth()? } else { decided });
        }
        Ok(left)
    }

    fn and(&mut self, live: bool) -> Parsed {
        let mut left = self.comparison(live)?;
        while self.symbol(&["&&"]).is_some() || self.word("and") {
            let open = live && left.truth()?;
            let right = self.comparison(open)?;
            left = Datum::Bool(open && right.truth()?);
        }
        Ok(left)
    }

    fn comparison(&mut self, live: bool) -> Parsed {
        let mut left = self.sum(live)?;
        loop {
            if self.word("in") {
                let right = self.sum(live)?;
                left = if live { contains(&right, &left)? } else { Datum::Nil };
                continue;
            }
            let Some(operator) = self.symbol(&["==", "!=", "<=", ">=", "<", ">"]) else { return Ok(left) };
            let right = self.sum(live)?;
            left = if live { compare(operator, &left, &right)? } else { Datum::Nil };
        }
    }

    fn sum(&mut self, live: bool) -> Parsed {
        let mut left = self.product(live)?;
        while let Some(operator) = self.symbol(&["+", "-"]) {
            let right = self.product(live)?;
            left = match (live, &left, &right) {
                (false, ..) => Datum::Nil,
                (true, Datum::Text(a), Datum::Text(b)) if operator == "+" => Datum::Text(format!("{a}{b}")),
                _ if operator == "+" => Datum::Number(left.number()? + right.number()?),
                _ => Datum::Number(left.number()? - right.number()?),
            };
        }
        Ok(left)
    }

    fn product(&mut self, live: bool) -> Parsed {
        let mut left = self.unary(live)?;
        while let Some(operator) = self.symbol(&["**", "*", "/", "%"]) {
            let right = self.unary(live)?;
            if !live {
                continue;
            }
            let (a, b) = (left.number()?, right.number()?);
            left = Datum::Number(match operator {
                "*" => a * b,
                "/" => a / b,
                "%" => a % b,
                _ => a.powf(b),
            });
        }
        Ok(left)
    }

    fn unary(&mut self, live: bool) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the condition is nested too deeply".into());
        }
        let value = if self.symbol(&["!"]).is_some() || self.word("not") {
            let value = self.unary(live)?;
            if live { Datum::Bool(!value.truth()?) } else { Datum::Nil }
        } else if self.symbol(&["-"]).is_some() {
            let value = self.unary(live)?;
            if live { Datum::Number(-value.number()?) } else { Datum::Nil }
        } else {
            self.postfix(live)?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn postfix(&mut self, live: bool) -> Parsed {
        let mut value = self.primary(live)?;
        loop {
            if self.symbol(&["["]).is_some() {
                let index = self.ternary(live)?;
                self.expect("]")?;
                value = if live { member(&value, &index)? } else { Datum::Nil };
            } else if self.symbol(&[".", "?."]).is_some() {
                let Some((_, Token::Name(name))) = self.tokens.get(self.at) else {
                    return Err("expected a name after '.'".into());
                };
                self.at += 1;
                value = if live { member(&value, &Datum::Text(name.clone()))? } else { Datum::Nil };
            } else {
                return Ok(value);
            }
        }
    }

    fn primary(&mut self, live: bool) -> Parsed {
        let Some((place, token)) = self.tokens.get(self.at) else { return Err("unexpected end".into()) };
        self.at += 1;
        match token {
            Token::Number(n) => Ok(Datum::Number(*n)),
            Token::Text(text) => Ok(Datum::Text(text.clone())),
            Token::Symbol("(") => {
                let value = self.ternary(live)?;
                self.expect(")")?;
                Ok(value)
            }
            Token::Symbol("[") => Ok(Datum::List(self.arguments("]", live)?)),
            Token::Symbol(symbol) => Err(format!("unexpected {symbol:?} at column {}", place + 1)),
            Token::Name(name) => match name.as_str() {
                "true" => Ok(Datum::Bool(true)),
                "false" => Ok(Datum::Bool(false)),
                "nil" => Ok(Datum::Nil),
                "result" => Ok(self.result.clone()),
                "#" => self.item.clone().ok_or_else(|| "'#' stands only inside a predicate".to_owned()),
                function if self.symbol(&["("]).is_some() => self.call(function, live),
                unknown => Err(format!(
                    "unknown name {unknown:?} at column {}: the measured value is called \"result\"",
                    place + 1
                )),
            },
        }
    }

    fn arguments(&mut self, end: &'static str, live: bool) -> Result<Vec<Datum>, String> {
        let mut arguments = Vec::new();
        if self.symbol(&[end]).is_some() {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.ternary(live)?);
            if self.symbol(&[end]).is_some() {
                return Ok(arguments);
            }
            self.expect(",")?;
        }
    }

    fn call(&mut self, function: &str, live: bool) -> Parsed {
        if matches!(function, "all" | "any" | "none" | "one" | "filter" | "count") {
            return self.predicate(function, live);
        }
        let arguments = self.arguments(")", live)?;
        if !live {
            return Ok(Datum::Nil);
        }
        match (function, arguments.as_slice()) {
            ("len", [Datum::List(items)]) => Ok(Datum::Number(items.len() as f64)),
            ("len", [Datum::Map(items)]) => Ok(Datum::Number(items.len() as f64)),
            ("len", [Datum::Text(text)]) => Ok(Datum::Number(text.chars().count() as f64)),
            ("isNaN", [n]) => Ok(Datum::Bool(n.number()?.is_nan())),
            ("isInf", [n]) => Ok(Datum::Bool(n.number()?.is_infinite())),
            ("isNil", [value]) => Ok(Datum::Bool(*value == Datum::Nil)),
            ("default", [Datum::Nil, other]) => Ok(other.clone()),
            ("default", [value, _]) => Ok(value.clone()),
            ("asInt", [value]) => as_number(value).map(|n| Datum::Number(n.trunc())),
            ("asFloat" | "float", [value]) => as_number(value).map(Datum::Number),
            ("abs", [n]) => Ok(Datum::Number(n.number()?.abs())),
            ("ceil", [n]) => Ok(Datum::Number(n.number()?.ceil())),
            ("floor", [n]) => Ok(Datum::Number(n.number()?.floor())),
            ("round", [n]) => Ok(Datum::Number(n.number()?.round())),
            ("max", [_, ..]) => fold(&arguments, f64::max),
            ("min", [_, ..]) => fold(&arguments, f64::min),
            _ => Err(format!("there is no function {function:?} for these {} arguments", arguments.len())),
        }
    }

    /// A function with a predicate, which is read anew for each item.
    fn predicate(&mut self, function: &str, live: bool) -> Parsed {
        let list = self.ternary(live)?;
        self.expect(",")?;
        let braces = self.symbol(&["{"]).is_some();
        let start = self.at;
        let items = match (live, list) {
            (false, _) => Vec::new(),
            (true, Datum::List(items)) => items,
            (true, other) => return Err(format!("{function} needs a list, found {}", other.kind())),
        };
        let outer = self.item.replace(Datum::Nil);
        self.ternary(false)?;
        let end = self.at;
        let mut kept = Vec::new();
        for item in &items {
            self.at = start;
            self.item = Some(item.clone());
            if self.ternary(true)?.truth()? {
                kept.push(item.clone());
            }
        }
        self.at = end;
        self.item = outer;
        if braces {
            self.expect("}")?;
        }
        self.expect(")")?;
        Ok(match function {
            "all" => Datum::Bool(kept.len() == items.len()),
            "any" => Datum::Bool(!kept.is_empty()),
            "none" => Datum::Bool(kept.is_empty()),
            "one" => Datum::Bool(kept.len() == 1),
            "count" => Datum::Number(kept.len() as f64),
            _ => Datum::List(kept),
        })
    }
}

fn as_number(value: &Datum) -> Result<f64, String> {
    match value {
        Datum::Text(text) => text.trim().parse().map_err(|_| format!("{text:?} is not a number")),
        other => other.number(),
    }
}

fn fold(arguments: &[Datum], pick: fn(f64, f64) -> f64) -> Parsed {
    let numbers: Result<Vec<f64>, String> = arguments.iter().map(Datum::number).collect();
    Ok(Datum::Number(numbers?.into_iter().reduce(pick).unwrap_or(f64::NAN)))
}

fn contains(list: &Datum, item: &Datum) -> Parsed {
    match (list, item) {
        (Datum::List(items), item) => Ok(Datum::Bool(items.contains(item))),
        (Datum::Map(fields), Datum::Text(name)) => Ok(Datum::Bool(fields.iter().any(|(n, _)| n == name))),
        (other, _) => Err(format!("\"in\" needs a list, found {}", other.kind())),
    }
}

fn compare(operator: &str, left: &Datum, right: &Datum) -> Parsed {
    let truth = match operator {
        "==" => left == right,
        "!=" => left != right,
        _ => {
            let order = match (left, right) {
                (Datum::Text(a), Datum::Text(b)) => Some(a.cmp(b)),
                _ => left.number()?.partial_cmp(&right.number()?),
            };
            match operator {
                "<" => order.is_some_and(std::cmp::Ordering::is_lt),
                "<=" => order.is_some_and(std::cmp::Ordering::is_le),
                ">" => order.is_some_and(std::cmp::Ordering::is_gt),
                _ => order.is_some_and(std::cmp::Ordering::is_ge),
            }
        }
    };
    Ok(Datum::Bool(truth))
}

fn member(value: &Datum, index: &Datum) -> Parsed {
    match (value, index) {
        (Datum::List(items), Datum::Number(n)) => {
            let at = if *n < 0.0 { n + items.len() as f64 } else { *n };
            let item = (at >= 0.0 && at.fract() == 0.0).then(|| items.get(at as usize)).flatten();
            item.cloned().ok_or_else(|| format!("there is no item {n} in a list of {}", items.len()))
        }
        (Datum::Map(fields), Datum::Text(name)) => {
            Ok(fields.iter().find(|(n, _)| n == name).map_or(Datum::Nil, |(_, value)| value.clone()))
        }
        (Datum::Nil, _) => Ok(Datum::Nil),
        (other, _) => Err(format!("{} has no members", other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str, result: &str, expect: Result<bool, &str>) {
        let result: Value = serde_json::from_str(result).expect("JSON");
        let holds = holds(condition, &Datum::from(&result));
        match (&holds, expect) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{condition} on {result}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{condition}: {found}"),
            _ => panic!("{condition} on {result}: {holds:?}"),
        }
    }

    #[test]
    fn conditions() {
        check("len(result) > 0 && result[0] < 0.02", "[0.01]", Ok(true));
        check("len(result) > 0 && result[0] < 0.02", "[]", Ok(false));
        check("len(result) > 0 && result[0] >= 0.05", "[0.06]", Ok(true));
        check("result[0] >= 0.95 || isNaN(result[0])", "[0.5]", Ok(false));
        check("result.ok == true && result.count in [1, 2]", r#"{"ok": true, "count": 2}"#, Ok(true));
        check("result == \"healthy\"", "\"healthy\"", Ok(true));
        check("default(result.p99, 1) < 2", "{}", Ok(true));
        check("all(result, {# < 3}) and not any(result, # > 2)", "[1, 2]", Ok(true));
        check("1 + 2 * 3 == 7 && -2 < 1 && 2 ** 3 == 8", "0", Ok(true));
        check("result > 1 ? true : false", "0", Ok(false));
        check("asFloat(result) < 1e-3", "\"0.0005\"", Ok(true));
    }

    #[test]
    fn errors_name_the_place() {
        check("result[0] < 1", "[]", Err("no item 0"));
        check("value < 1", "1", Err("unknown name \"value\" at column 1"));
        check("result <", "1", Err("unexpected end"));
        check("result < 1 2", "1", Err("column 12"));
        check("result", "1", Err("expected true or false"));
        check("result ; 1", "1", Err("unexpected ';'"));
        check(&"(".repeat(500), "1", Err("nested too deeply"));
    }
}
