//! Equality of any two values, and order of those that have one (cel-spec, "Equality", "Ordering").

use std::cmp::Ordering;

use super::Value;
use crate::error::EvalError;

impl Value<'_> {
    /// Whether both are the same. Numbers are compared by their value, whatever their type; values of
    /// types that have nothing in common are different.
    pub fn equals(&self, other: &Self) -> bool {
        if let Some(order) = numbers(self, other) {
            return order == Some(Ordering::Equal);
        }
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b),
            (Self::Map(a), Self::Map(b)) => a.equals(b),
            (Self::Type(a), Self::Type(b)) => a.same_head(b),
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => std::ptr::eq(*a, *b),
            (Self::Semver(a), Self::Semver(b)) => a.precedence(b) == Ordering::Equal,
            (Self::Check(a), Self::Check(b)) => a.same(b),
            _ => false,
        }
    }

    /// Which comes first.
    ///
    /// # Errors
    /// When the types have no common order.
    pub(crate) fn order(&self, other: &Self) -> Result<Ordering, EvalError> {
        if let Some(order) = numbers(self, other) {
            return order.ok_or_else(|| EvalError::new("NaN values cannot be ordered"));
        }
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Ok(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Ok((**a).cmp(&**b)),
            (Self::Bytes(a), Self::Bytes(b)) => Ok(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Ok(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Ok(a.cmp(b)),
            _ => Err(EvalError::no_such_overload()),
        }
    }
}

/// The order of two numbers; none within when one is no number at all (NaN).
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    use Value::{Double, Int, Uint};
    Some(match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Double(a), Int(b)) => whole(*a, i128::from(*b)),
        (Double(a), Uint(b)) => whole(*a, i128::from(*b)),
        (Int(a), Double(b)) => whole(*b, i128::from(*a)).map(Ordering::reverse),
        (Uint(a), Double(b)) => whole(*b, i128::from(*a)).map(Ordering::reverse),
        _ => return None,
    })
}

/// A double to an integer, exactly: the conversion to i128 saturates far beyond 64 bits.
fn whole(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    let order = (a.trunc() as i128).cmp(&b);
    let fraction = a.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal);
    Some(order.then(fraction))
}
