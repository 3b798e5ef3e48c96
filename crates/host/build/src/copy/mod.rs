//! Files from a tree into a step's layer: what is meant, what it contains, and how it is put down.

mod place;
mod source;

pub(crate) use place::Placer;
pub(crate) use source::{Item, Tree};

/// How copied files differ from their sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Owner and group; the source's where absent.
    pub(crate) owner: Option<(u32, u32)>,
    /// Permission bits.
    pub(crate) mode: Option<Mode>,
}

impl Changes {
    /// The mode of folders that are made on the way. As BuildKit's, but for one that nobody could enter.
    pub(crate) fn new_folder(&self) -> u32 {
        match self.mode {
            Some(Mode::Bits(bits)) if bits & 0o100 != 0 => bits,
            _ => 0o755,
        }
    }
}

/// `--chmod`: bits, or changes to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Bits(u32),
    /// `u+x,go=rX`, as given and checked.
    Symbolic(Vec<Clause>),
}

/// One part of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The permission classes meant, as the bits they have.
    classes: u32,
    operator: char,
    read: bool,
    write: bool,
    execute: bool,
    /// `X`: execute for folders and what somebody may execute already.
    conditional: bool,
    special: u32,
    /// `g=u`: the bits of these classes are taken over.
    like: u32,
}

impl Mode {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
            return u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777).map(Self::Bits);
        }
        text.split(',').map(clause).collect::<Option<Vec<_>>>().map(Self::Symbolic)
    }

    pub(crate) fn apply(&self, before: u32, is_dir: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Symbolic(clauses) => clauses.iter().fold(before, |mode, clause| {
                let execute = clause.execute || (clause.conditional && (is_dir || mode & 0o111 != 0));
                let bits = u32::from(clause.read) * 0o444
                    + u32::from(clause.write) * 0o222
                    + u32::from(execute) * 0o111;
                let bits = ((bits | spread(mode & clause.like)) & clause.classes) | clause.special;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !clause.classes) | bits,
                }
            }),
        }
    }
}

/// The permissions some class has, for all classes.
fn spread(bits: u32) -> u32 {
    let any = (bits | bits >> 3 | bits >> 6) & 0o7;
    any * 0o111
}

fn clause(text: &str) -> Option<Clause> {
    let cut = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at(cut);
    let mut chars = rest.chars();
    let mut clause = Clause {
        classes: if who.is_empty() { 0o777 } else { 0 },
        operator: chars.next()?,
        read: false,
        write: false,
        execute: false,
        conditional: false,
        special: 0,
        like: 0,
    };
    for class in who.chars() {
        clause.classes |= match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    for permission in chars {
        match permission {
            'r' => clause.read = true,
            'w' => clause.write = true,
            'x' => clause.execute = true,
            'X' => clause.conditional = true,
            't' => clause.special |= 0o1000,
            'u' => clause.like |= 0o700,
            'g' => clause.like |= 0o070,
            'o' => clause.like |= 0o007,
            's' => {
                clause.special |= if clause.classes & 0o700 != 0 { 0o4000 } else { 0 };
                clause.special |= if clause.classes & 0o070 != 0 { 0o2000 } else { 0 };
            }
            _ => return None,
        }
    }
    Some(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_modes() {
        for (text, before, is_dir, expect) in [
            ("755", 0o600, false, Some(0o755)),
            ("u+x", 0o644, false, Some(0o744)),
            ("go-rwx,u=rw", 0o755, false, Some(0o600)),
            ("a+X", 0o644, true, Some(0o755)),
            ("a+X", 0o644, false, Some(0o644)),
            ("a+X", 0o744, false, Some(0o755)),
            ("+t", 0o755, true, Some(0o1755)),
            ("u+s", 0o755, false, Some(0o4755)),
            ("g=u", 0o640, false, Some(0o660)),
            ("go+u", 0o740, false, Some(0o777)),
            ("99", 0, false, None),
            ("q+x", 0, false, None),
            ("", 0, false, None),
        ] {
            assert_eq!(Mode::parse(text).map(|mode| mode.apply(before, is_dir)), expect, "{text}");
        }
    }
}
