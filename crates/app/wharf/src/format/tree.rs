//! A template as a tree. `Display` gives each part back in the form in which errors quote it.

use std::fmt;

use super::functions::Function;

/// A piece of a template that stands for itself.
#[derive(Debug)]
pub(super) enum Statement {
    Text(String),
    Action(Pipe),
    Branch(Branch),
    Range { pipe: Pipe, body: Vec<Statement>, otherwise: Vec<Statement> },
    Break,
    Continue,
}

/// `if` or `with`: the first arm whose condition is true, or what stands after `else`.
#[derive(Debug)]
pub(super) struct Branch {
    /// Whether dot is the condition's value in the arm.
    pub(super) with: bool,
    pub(super) arms: Vec<(Pipe, Vec<Statement>)>,
    pub(super) otherwise: Vec<Statement>,
}

/// Commands, each of which takes the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Offset in the template, in bytes; the same in the other parts.
    pub(super) at: usize,
    /// Variables which the value goes to, with their `$`.
    pub(super) variables: Vec<String>,
    /// Whether the variables were there before (`=`) or begin here (`:=`).
    pub(super) assign: bool,
    pub(super) commands: Vec<Command>,
}

/// A function with its arguments, or a value.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) first: Operand,
    pub(super) arguments: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) at: usize,
    pub(super) kind: OperandKind,
}

#[derive(Debug)]
pub(super) enum OperandKind {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    /// A string as it was written, and what it means.
    Text(String, String),
    Function(&'static Function),
    /// `.A.B`
    Fields(Vec<String>),
    /// `$x.A.B`
    Variable(String, Vec<String>),
    /// `(…).A.B`
    Chain(Box<Operand>, Vec<String>),
    Pipe(Pipe),
}

/// A number as it was written, and what it means.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) written: String,
    /// As an `int`, if it is one.
    pub(super) whole: Option<i64>,
    /// As a `float64`, if its form asks for that.
    pub(super) float: Option<f64>,
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            write!(f, "{} {} ", self.variables.join(", "), if self.assign { "=" } else { ":=" })?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if index > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", InCommand(&self.first))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", InCommand(argument)))
    }
}

/// A pipe within a command stands in parentheses, one by itself does not.
struct InCommand<'t>(&'t Operand);

impl fmt::Display for InCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            OperandKind::Pipe(pipe) => write!(f, "({pipe})"),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = |f: &mut fmt::Formatter<'_>, names: &[String]| {
            names.iter().try_for_each(|name| write!(f, ".{name}"))
        };
        match &self.kind {
            OperandKind::Dot => f.write_str("."),
            OperandKind::Nil => f.write_str("nil"),
            OperandKind::Bool(value) => write!(f, "{value}"),
            OperandKind::Number(number) => f.write_str(&number.written),
            OperandKind::Text(written, _) => f.write_str(written),
            OperandKind::Function(function) => f.write_str(function.name),
            OperandKind::Fields(names) => dotted(f, names),
            OperandKind::Variable(name, names) => {
                f.write_str(name)?;
                dotted(f, names)
            }
            OperandKind::Chain(inner, names) => {
                write!(f, "{}", InCommand(inner))?;
                dotted(f, names)
            }
            OperandKind::Pipe(pipe) => write!(f, "{pipe}"),
        }
    }
}
