//! Checked trees to programs: variables become slots, calls know their overloads, constants are made.

mod build;

use std::sync::Arc;

use crate::{cost::call::Rule, decl::ObjectDecl, library::Overload, value::Value};

pub(crate) use build::plan;

/// A step of evaluation.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    Path(Box<Path>),
    /// Whether the last step of a path leads somewhere.
    Has(Box<Path>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Conditional(Box<[Node; 3]>),
    Call(Box<Call>),
    /// `x in [..]` of a constant list: costs nothing.
    Member(Box<(Node, Value<'static>)>),
    List(Vec<Item>),
    Map(Vec<(Node, Node, bool)>),
    Struct(Box<Construct>),
    Fold(Box<Fold>),
    /// `a.or(b)` of optionals, or `a.orValue(b)`.
    OptionalOr {
        sides: Box<[Node; 2]>,
        value: bool,
    },
    /// `@result + [x]`, to the accumulator itself.
    Append {
        accu: usize,
        item: Box<Node>,
    },
    /// `cel.@mapInsert(@result, ..)`, to the accumulator itself.
    Insert {
        accu: usize,
        entry: Vec<Node>,
    },
}

/// An element of a list under construction.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) optional: bool,
}

/// A variable or value, and the way from it: `a.b[0].?c`.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) steps: Vec<Step>,
    pub(crate) at: u32,
}

/// Where a path begins.
#[derive(Debug)]
pub(crate) enum Root {
    Global(usize),
    Local(usize),
    Node(Node),
    /// A conditional: its branches cost nothing of their own.
    Conditional(Box<[Node; 3]>),
}

/// One step of a path.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) optional: bool,
    pub(crate) at: u32,
}

/// What leads on.
#[derive(Debug)]
pub(crate) enum StepKind {
    /// A field: as written, and the JSON name that stands for.
    Field(Arc<str>, Option<Arc<str>>),
    Index(Node),
}

/// A function to be called.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) overloads: Vec<&'static Overload>,
    pub(crate) args: Vec<Node>,
    pub(crate) rule: Rule,
    pub(crate) at: u32,
    /// The expression a constant pattern was compiled to.
    pub(crate) regex: Option<regex::Regex>,
}

impl Call {
    /// The function's name.
    pub(crate) fn function(&self) -> &'static str {
        self.overloads.first().map_or("", |overload| overload.function)
    }
}

/// An object to be constructed.
#[derive(Debug)]
pub(crate) struct Construct {
    pub(crate) decl: Arc<ObjectDecl>,
    pub(crate) fields: Vec<(Arc<str>, Node, bool)>,
}

/// A loop.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) var: usize,
    pub(crate) var2: Option<usize>,
    pub(crate) accu: usize,
    pub(crate) body: Body,
    pub(crate) at: u32,
}

/// What a loop does.
#[derive(Debug)]
pub(crate) enum Body {
    /// Whether a predicate holds for all, or for any: errors are got over as `&&` and `||` do.
    Quantifier {
        predicate: Node,
        all: bool,
    },
    /// A value by a name; there is no loop.
    Bind {
        init: Node,
        result: Node,
    },
    Collect {
        init: Node,
        step: Node,
        result: Node,
    },
}
