//! How values print: the verbs and flags of Go's `fmt`.

use super::floats;
use super::literal::{is_print, quote, quote_char};
use super::sink::Sink;
use super::value::{Value, sorted};

/// The widest field and the highest precision.
const MAX_WIDTH: usize = 1_000_000;

/// What stands between `%` and the verb.
#[derive(Clone, Copy, Default)]
struct Spec {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The value as `{{.}}` shows it.
pub(super) fn display(sink: &mut Sink, value: &Value<'_>) {
    match value {
        Value::Missing => sink.push("<no value>"),
        value => Printer { sink, spec: Spec::default() }.value(value, 'v'),
    }
}

/// `print`: spaces stand between operands neither of which is a string.
pub(super) fn print(sink: &mut Sink, values: &[Value<'_>]) {
    let mut before_text = true;
    for value in values {
        let text = matches!(value, Value::Text(_));
        if !text && !before_text {
            sink.push(" ");
        }
        before_text = text;
        Printer { sink, spec: Spec::default() }.value(value, 'v');
    }
}

/// `println`: spaces stand between all operands.
pub(super) fn println(sink: &mut Sink, values: &[Value<'_>]) {
    for (index, value) in values.iter().enumerate() {
        sink.push(if index > 0 { " " } else { "" });
        Printer { sink, spec: Spec::default() }.value(value, 'v');
    }
    sink.push("\n");
}

/// The value by one verb without flags.
pub(super) fn by_verb(value: &Value<'_>, verb: char, room: usize) -> Result<String, String> {
    let mut sink = Sink::new(room);
    Printer { sink: &mut sink, spec: Spec::default() }.value(value, verb);
    sink.finish()
}

/// `printf`. What does not fit together is said within the text, as Go does it.
pub(super) fn printf(sink: &mut Sink, format: &str, values: &[Value<'_>]) -> Result<(), String> {
    let (mut rest, mut values) = (format, values.iter());
    while let Some((text, after)) = rest.split_once('%') {
        sink.push(text);
        let (spec, after) = spec(after)?;
        let mut after = after.chars();
        let verb = after.next();
        rest = after.as_str();
        match verb {
            None => sink.push("%!(NOVERB)"),
            Some('%') => sink.push("%"),
            Some(verb @ ('*' | '[')) => return Err(format!("'{verb}' in a format is not supported")),
            Some(verb) => match values.next() {
                None => sink.push(&format!("%!{verb}(MISSING)")),
                Some(value) => argument(sink, spec, verb, value),
            },
        }
    }
    sink.push(rest);
    extra(sink, values.as_slice());
    Ok(())
}

fn argument(sink: &mut Sink, spec: Spec, verb: char, value: &Value<'_>) {
    if verb == 'v' && spec.sharp {
        sink.refuse(format!("%#v of {}", value.type_name()));
    }
    // With %v the plus is for structures, which JSON has not.
    let mut printer = Printer { sink, spec: Spec { plus: spec.plus && verb != 'v', ..spec } };
    match verb {
        'T' if value.is_nil() => printer.pad("<nil>"),
        'T' => printer.text(value.type_name(), 's'),
        verb => printer.value(value, verb),
    }
}

fn extra(sink: &mut Sink, values: &[Value<'_>]) {
    for (index, value) in values.iter().enumerate() {
        sink.push(if index == 0 { "%!(EXTRA " } else { ", " });
        if !value.is_nil() {
            sink.push(&format!("{}=", value.type_name()));
        }
        Printer { sink, spec: Spec::default() }.value(value, 'v');
    }
    sink.push(if values.is_empty() { "" } else { ")" });
}

/// Flags, width and precision, and what follows them.
fn spec(text: &str) -> Result<(Spec, &str), String> {
    let flags = text.len() - text.trim_start_matches(['+', '-', '#', ' ', '0']).len();
    let (flags, rest) = text.split_at_checked(flags).unwrap_or(("", text));
    let has = |flag: char| flags.contains(flag);
    let mut spec = Spec {
        plus: has('+'),
        minus: has('-'),
        sharp: has('#'),
        space: has(' '),
        zero: has('0'),
        ..Spec::default()
    };
    let (width, mut rest) = number(rest)?;
    spec.width = width;
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, after) = number(after)?;
        spec.precision = precision.or(Some(0)).filter(|_| !after.starts_with(['*', '[']));
        rest = after;
    }
    Ok((spec, rest))
}

fn number(text: &str) -> Result<(Option<usize>, &str), String> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.get(..text.len() - rest.len()).unwrap_or_default();
    match digits.parse::<usize>() {
        _ if digits.is_empty() => Ok((None, rest)),
        Ok(number) if number <= MAX_WIDTH => Ok((Some(number), rest)),
        _ => Err(format!("a width or precision above {MAX_WIDTH} in a format is not supported")),
    }
}

struct Printer<'s> {
    sink: &'s mut Sink,
    spec: Spec,
}

impl Printer<'_> {
    fn value(&mut self, value: &Value<'_>, verb: char) {
        match value {
            Value::Missing | Value::Nil if verb == 'v' => self.pad("<nil>"),
            Value::Bool(flag) if matches!(verb, 'v' | 't') => self.pad(if *flag { "true" } else { "false" }),
            Value::Int(number) if "vdboOxXcqU".contains(verb) => {
                self.integer(*number < 0, number.unsigned_abs(), verb);
            }
            Value::Uint(number, _) if "vdboOxXcqU".contains(verb) => self.integer(false, *number, verb),
            Value::Float(_) if "bxX".contains(verb) || self.spec.sharp && "gGfFeE".contains(verb) => {
                let sharp = if self.spec.sharp { "#" } else { "" };
                self.sink.refuse(format!("%{sharp}{verb} of float64"));
            }
            Value::Float(number) if "vgGfFeE".contains(verb) => self.float(*number, verb),
            Value::Text(text) if "vsxXq".contains(verb) => self.text(text, verb),
            Value::List(items) => {
                self.sink.push("[");
                for index in 0..items.len() {
                    self.sink.push(if index > 0 { " " } else { "" });
                    self.inner(&Value::element(items, index).unwrap_or(Value::Nil), verb);
                    if self.sink.is_full() {
                        return;
                    }
                }
                self.sink.push("]");
            }
            Value::Map(map) => {
                self.sink.push("map[");
                for (index, (key, value)) in sorted(map).into_iter().enumerate() {
                    self.sink.push(if index > 0 { " " } else { "" });
                    self.value(&Value::Text(super::value::Held::Given(key)), verb);
                    self.sink.push(":");
                    self.inner(&Value::of(value), verb);
                }
                self.sink.push("]");
            }
            value => self.bad(value, verb),
        }
    }

    /// A part of a list or map: there `null` is the same by every verb.
    fn inner(&mut self, value: &Value<'_>, verb: char) {
        if value.is_nil() { self.sink.push("<nil>") } else { self.value(value, verb) }
    }

    fn bad(&mut self, value: &Value<'_>, verb: char) {
        self.sink.push("%!");
        self.sink.push_char(verb);
        if value.is_nil() {
            return self.sink.push("(<nil>)");
        }
        self.sink.push(&format!("({}=", value.type_name()));
        self.value(value, 'v');
        self.sink.push(")");
    }

    /// Fills up to the width.
    fn pad(&mut self, text: &str) {
        let missing = self.spec.width.map_or(0, |width| width.saturating_sub(text.chars().count()));
        if self.spec.minus {
            self.sink.push(text);
            return self.sink.repeat(' ', missing);
        }
        self.sink.repeat(if self.spec.zero { '0' } else { ' ' }, missing);
        self.sink.push(text);
    }

    fn text(&mut self, text: &str, verb: char) {
        if matches!(verb, 'x' | 'X') {
            return self.hex(text.as_bytes(), verb == 'X');
        }
        let cut = self.spec.precision.and_then(|precision| text.char_indices().nth(precision));
        let text = cut.and_then(|(end, _)| text.get(..end)).unwrap_or(text);
        if verb != 'q' {
            return self.pad(text);
        }
        let raw = self.spec.sharp
            && text.chars().all(|c| c == '\t' || !matches!(c, '`' | '\0'..'\x20' | '\x7f' | '\u{feff}'));
        self.pad(&if raw { format!("`{text}`") } else { quote(text, self.spec.plus) });
    }

    fn hex(&mut self, bytes: &[u8], upper: bool) {
        let bytes = bytes.get(..self.spec.precision.unwrap_or(bytes.len())).unwrap_or(bytes);
        let prefix = match (self.spec.sharp && !bytes.is_empty(), upper) {
            (false, _) => "",
            (true, false) => "0x",
            (true, true) => "0X",
        };
        let mut text = String::from(prefix);
        for (index, byte) in bytes.iter().enumerate() {
            if self.spec.space && index > 0 {
                text.push(' ');
                text.push_str(prefix);
            }
            text.push_str(&if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        }
        self.pad(&text);
    }

    fn integer(&mut self, negative: bool, number: u64, verb: char) {
        let c = u32::try_from(number).ok().filter(|_| !negative).and_then(char::from_u32);
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        match verb {
            'c' => return self.pad(c.encode_utf8(&mut [0; 4])),
            'q' => return self.pad(&quote_char(c, self.spec.plus)),
            'U' => return self.code_point(negative, number),
            _ => {}
        }
        let digits = match verb {
            'b' => format!("{number:b}"),
            'o' | 'O' => format!("{number:o}"),
            'x' => format!("{number:x}"),
            'X' => format!("{number:X}"),
            _ => number.to_string(),
        };
        let sign = self.sign(negative);
        let zeros = self.spec.width.filter(|_| self.spec.zero && !self.spec.minus);
        let length = self.spec.precision.or(zeros.map(|width| width.saturating_sub(sign.len()))).unwrap_or(0);
        if self.spec.precision == Some(0) && number == 0 {
            return self.sink.repeat(' ', self.spec.width.unwrap_or(0));
        }
        let digits = format!("{}{digits}", "0".repeat(length.saturating_sub(digits.len())));
        let prefix = match (verb, self.spec.sharp) {
            ('O', _) => "0o",
            ('b', true) => "0b",
            ('x', true) => "0x",
            ('X', true) => "0X",
            ('o', true) if !digits.starts_with('0') => "0",
            _ => "",
        };
        self.pad_blank(&format!("{sign}{prefix}{digits}"));
    }

    fn pad_blank(&mut self, text: &str) {
        let zero = std::mem::take(&mut self.spec.zero);
        self.pad(text);
        self.spec.zero = zero;
    }

    fn code_point(&mut self, negative: bool, number: u64) {
        let number = if negative { number.wrapping_neg() } else { number };
        let digits = format!("{number:X}");
        let zeros = "0".repeat(self.spec.precision.unwrap_or(4).max(4).saturating_sub(digits.len()));
        let shown =
            u32::try_from(number).ok().and_then(char::from_u32).filter(|c| self.spec.sharp && is_print(*c));
        let shown = shown.map_or(String::new(), |c| format!(" '{c}'"));
        self.pad_blank(&format!("U+{zeros}{digits}{shown}"));
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.spec.plus, self.spec.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        }
    }

    fn float(&mut self, number: f64, verb: char) {
        let precision = self.spec.precision;
        let size = number.abs();
        let digits = match verb {
            'f' | 'F' => floats::fixed(size, precision.unwrap_or(6)),
            'e' | 'E' => floats::exponent(size, precision.unwrap_or(6)),
            _ => floats::shortest(size, precision),
        };
        let digits = if matches!(verb, 'E' | 'G') { digits.to_uppercase() } else { digits };
        let sign = self.sign(number.is_sign_negative());
        let zeros = self.spec.width.filter(|_| self.spec.zero && !self.spec.minus && !sign.is_empty());
        let zeros = zeros.map_or(0, |width| width.saturating_sub(sign.len() + digits.len()));
        self.pad(&format!("{sign}{}{digits}", "0".repeat(zeros)));
    }
}
