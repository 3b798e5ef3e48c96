//! The parsed query.

use super::Span;
use super::functions::Function;
use crate::metrics::Matcher;

/// What an expression gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A number.
    Scalar,
    /// Series with one sample each.
    Vector,
    /// Series with samples over a range.
    Matrix,
    /// A text.
    String,
}

impl ValueType {
    /// The name in Prometheus' documentation.
    pub fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::String => "string",
        }
    }

    /// The name in Prometheus' API.
    pub fn api(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }
}

/// `@` with a time, `start()` or `end()`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum At {
    Time(i64),
    Start,
    End,
}

/// A duration in milliseconds, or the expression that gives one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Length {
    Fixed(i64),
    Computed(Box<DurationExpr>),
}

impl Length {
    /// The value; only after [`super::prepare`] resolved expressions.
    pub(crate) fn ms(&self) -> i64 {
        match self {
            Self::Fixed(ms) => *ms,
            Self::Computed(_) => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DurationExpr {
    pub(crate) op: DurationOp,
    pub(crate) args: Vec<DurationExpr>,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DurationOp {
    /// Seconds, and whether it was written with a unit.
    Number(f64, bool),
    Step,
    Range,
    Min,
    Max,
    Plus,
    Minus,
    Paren,
    Binary(char),
}

/// `name{matchers} offset … @ …`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) offset: Length,
    pub(crate) at: Option<At>,
    pub(crate) anchored: bool,
    pub(crate) smoothed: bool,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Card {
    OneToOne,
    ManyToOne,
    OneToMany,
    ManyToMany,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matching {
    pub(crate) card: Card,
    pub(crate) on: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) include: Vec<String>,
    pub(crate) fill_left: Option<f64>,
    pub(crate) fill_right: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    And,
    Or,
    Unless,
    TrimUpper,
    TrimLower,
}

impl BinaryOp {
    pub(crate) fn of(text: &str) -> Option<Self> {
        use BinaryOp::*;
        Some(match text.to_ascii_lowercase().as_str() {
            "+" => Add,
            "-" => Sub,
            "*" => Mul,
            "/" => Div,
            "%" => Mod,
            "^" => Pow,
            "atan2" => Atan2,
            "==" => Eq,
            "!=" => Ne,
            ">" => Gt,
            "<" => Lt,
            ">=" => Ge,
            "<=" => Le,
            "and" => And,
            "or" => Or,
            "unless" => Unless,
            "</" => TrimUpper,
            ">/" => TrimLower,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        use BinaryOp::*;
        match self {
            Add => "+",
            Sub => "-",
            Mul => "*",
            Div => "/",
            Mod => "%",
            Pow => "^",
            Atan2 => "atan2",
            Eq => "==",
            Ne => "!=",
            Gt => ">",
            Lt => "<",
            Ge => ">=",
            Le => "<=",
            And => "and",
            Or => "or",
            Unless => "unless",
            TrimUpper => "</",
            TrimLower => ">/",
        }
    }

    /// Binds tighter when higher.
    pub(crate) fn precedence(self) -> u8 {
        use BinaryOp::*;
        match self {
            Or => 1,
            And | Unless => 2,
            Eq | Ne | Gt | Lt | Ge | Le | TrimUpper | TrimLower => 3,
            Add | Sub => 4,
            Mul | Div | Mod | Atan2 => 5,
            Pow => 6,
        }
    }

    pub(crate) fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Eq | Ne | Gt | Lt | Ge | Le)
    }

    pub(crate) fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregator {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl Aggregator {
    pub(crate) fn of(word: &str) -> Option<Self> {
        use Aggregator::*;
        Some(match word.to_ascii_lowercase().as_str() {
            "sum" => Sum,
            "avg" => Avg,
            "count" => Count,
            "min" => Min,
            "max" => Max,
            "group" => Group,
            "stddev" => Stddev,
            "stdvar" => Stdvar,
            "topk" => Topk,
            "bottomk" => Bottomk,
            "count_values" => CountValues,
            "quantile" => Quantile,
            "limitk" => Limitk,
            "limit_ratio" => LimitRatio,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        use Aggregator::*;
        match self {
            Sum => "sum",
            Avg => "avg",
            Count => "count",
            Min => "min",
            Max => "max",
            Group => "group",
            Stddev => "stddev",
            Stdvar => "stdvar",
            Topk => "topk",
            Bottomk => "bottomk",
            CountValues => "count_values",
            Quantile => "quantile",
            Limitk => "limitk",
            LimitRatio => "limit_ratio",
        }
    }

    pub(crate) fn has_parameter(self) -> bool {
        use Aggregator::*;
        matches!(self, Topk | Bottomk | CountValues | Quantile | Limitk | LimitRatio)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) op: Aggregator,
    pub(crate) expr: Expr,
    pub(crate) param: Option<Expr>,
    pub(crate) grouping: Vec<String>,
    pub(crate) without: bool,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Binary {
    pub(crate) op: BinaryOp,
    pub(crate) left: Expr,
    pub(crate) right: Expr,
    pub(crate) matching: Option<Matching>,
    pub(crate) bool: bool,
    /// Where the operator stands.
    pub(crate) op_span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) function: &'static Function,
    pub(crate) args: Vec<Expr>,
    pub(crate) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Range {
    pub(crate) selector: Selector,
    pub(crate) range: Length,
    pub(crate) end: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subquery {
    pub(crate) expr: Expr,
    pub(crate) range: Length,
    pub(crate) step: Option<Length>,
    pub(crate) offset: Length,
    pub(crate) at: Option<At>,
    pub(crate) end: usize,
}

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    Number {
        value: f64,
        duration: bool,
        span: Span,
    },
    String {
        value: String,
        span: Span,
    },
    Vector(Box<Selector>),
    Matrix(Box<Range>),
    Subquery(Box<Subquery>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    Call(Box<Call>),
    Paren(Box<Expr>, Span),
    Unary {
        minus: bool,
        expr: Box<Expr>,
        start: usize,
    },
    /// The same at every step, so it is evaluated once.
    Invariant(Box<Expr>),
}

impl Expr {
    pub(crate) fn value_type(&self) -> ValueType {
        match self {
            Self::Number { .. } => ValueType::Scalar,
            Self::String { .. } => ValueType::String,
            Self::Vector(_) | Self::Aggregate(_) => ValueType::Vector,
            Self::Matrix(_) | Self::Subquery(_) => ValueType::Matrix,
            Self::Call(call) => call.function.returns,
            Self::Paren(inner, _) | Self::Invariant(inner) => inner.value_type(),
            Self::Unary { expr, .. } => expr.value_type(),
            Self::Binary(binary) => match (binary.left.value_type(), binary.right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
        }
    }

    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Number { span, .. } | Self::String { span, .. } | Self::Paren(_, span) => *span,
            Self::Vector(selector) => selector.span,
            Self::Matrix(range) => Span { start: range.selector.span.start, end: range.end },
            Self::Subquery(sub) => Span { start: sub.expr.span().start, end: sub.end },
            Self::Aggregate(aggregate) => aggregate.span,
            Self::Binary(binary) => Span { start: binary.left.span().start, end: binary.right.span().end },
            Self::Call(call) => call.span,
            Self::Unary { expr, start, .. } => Span { start: *start, end: expr.span().end },
            Self::Invariant(inner) => inner.span(),
        }
    }

    /// Without parentheses and evaluation marks around it.
    pub(crate) fn bare(&self) -> &Expr {
        match self {
            Self::Paren(inner, _) | Self::Invariant(inner) => inner.bare(),
            other => other,
        }
    }
}
