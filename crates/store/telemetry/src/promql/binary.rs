//! Operators between two expressions.

use std::collections::{HashMap, HashSet};

use super::QueryError;
use super::ast::*;
use super::eval::Evaluator;
use super::series::{Builder, Cursor, Matrix, Series, nameless};
use crate::metrics::{FastHash, Labels, METRIC_NAME, Point};

pub(crate) fn apply(op: BinaryOp, a: f64, b: f64) -> f64 {
    use BinaryOp::*;
    let truth = |v: bool| f64::from(u8::from(v));
    match op {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        Mod => a % b,
        Pow => a.powf(b),
        Atan2 => a.atan2(b),
        Eq => truth(a == b),
        Ne => truth(a != b),
        Gt => truth(a > b),
        Lt => truth(a < b),
        Ge => truth(a >= b),
        Le => truth(a <= b),
        And | Or | Unless | TrimUpper | TrimLower => f64::NAN,
    }
}

/// Operators that make another quantity of their operands.
fn changes_meaning(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Add | Sub | Mul | Div | Mod | Pow | Atan2)
}

/// The labels that pairs must share.
fn signature(labels: &Labels, matching: &Matching) -> Labels {
    if matching.on {
        labels.filter(|name| matching.labels.iter().any(|l| l == name))
    } else {
        labels.filter(|name| name != METRIC_NAME && !matching.labels.iter().any(|l| l == name))
    }
}

impl Evaluator<'_> {
    pub(crate) fn binary(&mut self, binary: &Binary) -> Result<Matrix, QueryError> {
        use ValueType::{Scalar, Vector};
        if matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower) {
            self.eval(&binary.left)?;
            self.eval(&binary.right)?;
            let op = binary.op.as_str();
            let span = Expr::Binary(Box::new(binary.clone())).span();
            self.notes.info(
                span,
                format!(
                    "incompatible sample types encountered for binary operator \"{op}\": float {op} float"
                ),
            );
            return Ok(Matrix::new());
        }
        match (binary.left.value_type(), binary.right.value_type()) {
            (Scalar, Scalar) => {
                let (a, b) = (self.scalar_values(&binary.left)?, self.scalar_values(&binary.right)?);
                let mut values = a.iter().zip(&b).map(|(a, b)| apply(binary.op, *a, *b));
                Ok(self.scalar(|_| values.next().unwrap_or(f64::NAN)))
            }
            (Vector, Scalar) => {
                let matrix = self.eval(&binary.left)?;
                let scalars = self.scalar_values(&binary.right)?;
                self.with_scalar(binary, matrix, &scalars, false)
            }
            (Scalar, Vector) => {
                let scalars = self.scalar_values(&binary.left)?;
                let matrix = self.eval(&binary.right)?;
                self.with_scalar(binary, matrix, &scalars, true)
            }
            _ => {
                let (left, right) = (self.eval(&binary.left)?, self.eval(&binary.right)?);
                let Some(matching) = &binary.matching else { return Ok(Matrix::new()) };
                if binary.op.is_set() {
                    self.set(binary.op, matching, &left, &right)
                } else {
                    self.vectors(binary, matching, &left, &right)
                }
            }
        }
    }

    fn with_scalar(
        &self,
        binary: &Binary,
        matrix: Matrix,
        scalars: &[f64],
        swapped: bool,
    ) -> Result<Matrix, QueryError> {
        let op = binary.op;
        let drop_name = changes_meaning(op) || binary.bool;
        let mut out = Matrix::with_capacity(matrix.len());
        for mut series in matrix {
            series.points.retain_mut(|point| {
                let step = ((point.t - self.start) / self.step) as usize;
                let scalar = scalars.get(step).copied().unwrap_or(f64::NAN);
                let (a, b) = if swapped { (scalar, point.v) } else { (point.v, scalar) };
                let result = apply(op, a, b);
                if op.is_comparison() && !binary.bool {
                    // A filter: the vector's own value stays.
                    return result != 0.0;
                }
                point.v = result;
                true
            });
            if series.points.is_empty() {
                continue;
            }
            if drop_name {
                series.labels = self.dropped(&series.labels);
                series.drop_name = true;
            }
            out.push(series);
        }
        self.settle(out)
    }

    fn set(
        &self,
        op: BinaryOp,
        matching: &Matching,
        left: &[Series],
        right: &[Series],
    ) -> Result<Matrix, QueryError> {
        let (left_ids, right_ids, count) = number(matching, left, right);
        let mut out = Builder::default();
        let places: Vec<usize> = left.iter().map(|s| out.place(s.labels.clone(), s.drop_name)).collect();
        let right_places: Vec<usize> = match op {
            BinaryOp::Or => right.iter().map(|s| out.place(s.labels.clone(), s.drop_name)).collect(),
            _ => vec![],
        };
        let (mut l, mut r) = (Cursor::new(left), Cursor::new(right));
        let mut seen = vec![i64::MIN; count];
        let id = |ids: &[usize], i: usize| ids.get(i).copied().unwrap_or(0);
        for t in self.times() {
            self.check()?;
            let rights: Vec<(usize, f64)> = r.step(t).map(|(i, _, v)| (i, v)).collect();
            if op == BinaryOp::Or {
                for (i, _, v) in l.step(t) {
                    if let Some(slot) = seen.get_mut(id(&left_ids, i)) {
                        *slot = t;
                    }
                    out.push(id(&places, i), Point { t, v })?;
                }
                for (i, v) in rights {
                    if seen.get(id(&right_ids, i)) != Some(&t) {
                        out.push(id(&right_places, i), Point { t, v })?;
                    }
                }
                continue;
            }
            for (i, _) in rights {
                if let Some(slot) = seen.get_mut(id(&right_ids, i)) {
                    *slot = t;
                }
            }
            for (i, _, v) in l.step(t) {
                let present = seen.get(id(&left_ids, i)) == Some(&t);
                if present == (op == BinaryOp::And) {
                    out.push(id(&places, i), Point { t, v })?;
                }
            }
        }
        Ok(out.finish())
    }

    fn vectors(
        &self,
        binary: &Binary,
        matching: &Matching,
        left: &[Series],
        right: &[Series],
    ) -> Result<Matrix, QueryError> {
        let swapped = matching.card == Card::OneToMany;
        // From here on "many" may have several series of a signature, "one" must not.
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        // Prometheus' sides of a fill follow the swap: the left fill is for the side with many.
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let (many_ids, one_ids, count) = number(matching, many, one);
        let mut join = Join {
            binary,
            matching,
            swapped,
            out: Builder::default(),
            places: HashMap::default(),
            results: HashMap::default(),
            delayed: self.options.delayed_name_removal,
            matched: vec![i64::MIN; count],
        };
        let (mut m, mut o) = (Cursor::new(many), Cursor::new(one));
        let mut ones: Vec<(i64, usize, f64)> = vec![(i64::MIN, 0, 0.0); count];
        let id = |ids: &[usize], i: usize| ids.get(i).copied().unwrap_or(0);
        for t in self.times() {
            self.check()?;
            join.results.clear();
            let manys: Vec<(usize, f64)> = m.step(t).map(|(i, _, v)| (i, v)).collect();
            let rights: Vec<(usize, f64)> = o.step(t).map(|(i, _, v)| (i, v)).collect();
            let fills = fill_many.is_some() || fill_one.is_some();
            if (manys.is_empty() && rights.is_empty()) || (!fills && (manys.is_empty() || rights.is_empty()))
            {
                continue;
            }
            for &(i, v) in &rights {
                let Some(slot) = ones.get_mut(id(&one_ids, i)) else { continue };
                if slot.0 == t {
                    return Err(join.duplicate(one.get(slot.1), one.get(i)));
                }
                *slot = (t, i, v);
            }
            for &(i, v) in &manys {
                let group = id(&many_ids, i);
                let partner = ones.get(group).filter(|slot| slot.0 == t).copied();
                match (partner, fill_one) {
                    (Some((_, at, value)), _) => {
                        join.pair(t, group, (many.get(i), i, v), (one.get(at), at, value))?
                    }
                    (None, Some(fill)) => {
                        join.pair(t, group, (many.get(i), i, v), (None, usize::MAX, fill))?
                    }
                    (None, None) => {}
                }
            }
            if let Some(fill) = fill_many {
                for &(i, v) in &rights {
                    let group = id(&one_ids, i);
                    if join.matched.get(group) != Some(&t) {
                        join.pair(t, group, (None, usize::MAX, fill), (one.get(i), i, v))?;
                    }
                }
            }
        }
        Ok(join.out.finish())
    }
}

/// Numbers the signatures of both sides.
fn number(matching: &Matching, a: &[Series], b: &[Series]) -> (Vec<usize>, Vec<usize>, usize) {
    let mut known: HashMap<Labels, usize, FastHash> = HashMap::default();
    let mut ids = |side: &[Series]| {
        side.iter()
            .map(|series| {
                let next = known.len();
                *known.entry(signature(&series.labels, matching)).or_insert(next)
            })
            .collect::<Vec<usize>>()
    };
    let (a, b) = (ids(a), ids(b));
    (a, b, known.len())
}

type Side<'a> = (Option<&'a Series>, usize, f64);

struct Join<'a> {
    binary: &'a Binary,
    matching: &'a Matching,
    swapped: bool,
    out: Builder,
    /// Where the result of two series goes.
    places: HashMap<(usize, usize), (usize, Labels), FastHash>,
    /// Results of this step, for many-to-one.
    results: HashMap<usize, HashSet<Labels, FastHash>, FastHash>,
    delayed: bool,
    matched: Vec<i64>,
}

impl Join<'_> {
    fn duplicate(&self, a: Option<&Series>, b: Option<&Series>) -> QueryError {
        let text = |s: Option<&Series>| s.map(|s| s.labels.as_set()).unwrap_or_default();
        let (mut first, mut second) = (text(a), text(b));
        if first > second {
            std::mem::swap(&mut first, &mut second);
        }
        let group = b.map(|s| signature(&s.labels, self.matching).as_set()).unwrap_or_default();
        let side = if self.swapped { "left" } else { "right" };
        QueryError::Execution(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: \
             [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side"
        ))
    }

    fn pair(&mut self, t: i64, group: usize, many: Side<'_>, one: Side<'_>) -> Result<(), QueryError> {
        let op = self.binary.op;
        let (a, b) = if self.swapped { (one.2, many.2) } else { (many.2, one.2) };
        let result = apply(op, a, b);
        let filter = op.is_comparison() && !self.binary.bool;
        let keep = !filter || result != 0.0;
        let (place, labels) = match self.places.get(&(many.1, one.1)) {
            Some((place, labels)) => (*place, labels.clone()),
            None => {
                let labels = self.result_labels(many.0, one.0);
                let place = self.out.place(labels.clone(), self.binary.bool || changes_meaning(op));
                self.places.insert((many.1, one.1), (place, labels.clone()));
                (place, labels)
            }
        };
        let fail = |what: &str| Err(QueryError::Execution(format!("multiple matches for labels: {what}")));
        if self.matching.card == Card::OneToOne {
            if self.matched.get(group) == Some(&t) {
                return fail("many-to-one matching must be explicit (group_left/group_right)");
            }
        } else if !self.results.entry(group).or_default().insert(labels) {
            return fail("grouping labels must ensure unique matches");
        }
        if let Some(slot) = self.matched.get_mut(group) {
            *slot = t;
        }
        if keep {
            // A filter keeps the left side's value, whichever side has many.
            self.out.push(place, Point { t, v: if filter { a } else { result } })?;
        }
        Ok(())
    }

    fn result_labels(&self, many: Option<&Series>, one: Option<&Series>) -> Labels {
        // A filled side has the labels both sides would share.
        let shared = |s: Option<&Series>| s.map(|s| signature(&s.labels, self.matching)).unwrap_or_default();
        let base = many.map_or_else(|| shared(one), |s| s.labels.clone());
        let other = one.map_or_else(|| shared(many), |s| s.labels.clone());
        let mut labels = base;
        if changes_meaning(self.binary.op) || (self.binary.bool && !self.delayed) {
            labels = nameless(&labels);
        }
        if self.matching.card == Card::OneToOne {
            let listed = |name: &str| self.matching.labels.iter().any(|l| l == name);
            labels = labels.filter(|name| listed(name) == self.matching.on);
        }
        for name in &self.matching.include {
            labels = labels.with(name, other.get(name));
        }
        labels
    }
}
