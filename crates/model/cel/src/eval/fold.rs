//! Loops of comprehensions.

use std::sync::Arc;

use super::{Evaluation, Outcome};
use crate::{
    cost::LIST_CREATE,
    error::EvalError,
    plan::{Body, Fold, Node},
    value::{List, Map, OwnedMap, Value},
};

/// What a loop goes over.
enum Range<'p> {
    List(List<'p>),
    Map(Map<'p>, Vec<Value<'p>>),
}

impl<'p> Evaluation<'p> {
    pub(super) fn fold(&mut self, fold: &'p Fold) -> Outcome<'p> {
        if let Body::Bind { init, result } = &fold.body {
            let value = self.eval(init)?;
            self.set(fold.accu, value);
            return self.eval(result);
        }
        let range = match self.eval(&fold.range)? {
            Value::List(list) => Range::List(list),
            Value::Map(map) => {
                self.toil(map.len() as u64)?;
                let keys = map.keys();
                Range::Map(map, keys)
            }
            other => {
                let message = format!("got '{}', expected iterable type", other.ty().head());
                return Err(EvalError::new(message).located(fold.at));
            }
        };
        match &fold.body {
            Body::Quantifier { predicate, all } => self.quantifier(fold, &range, predicate, *all),
            Body::Collect { init, step, result } => self.collect(fold, &range, [init, step, result]),
            Body::Bind { .. } => Ok(Value::Null),
        }
    }

    fn set(&mut self, slot: usize, value: Value<'p>) {
        if let Some(local) = self.locals.get_mut(slot) {
            *local = value;
        }
    }

    /// Sets the variables for one round; false when there are no more.
    fn next(&mut self, fold: &Fold, range: &Range<'p>, i: usize) -> Result<bool, EvalError> {
        let (first, second) = match range {
            Range::List(list) => match list.get(i) {
                None => return Ok(false),
                Some(item) if fold.var2.is_some() => (Value::Int(i as i64), Some(item)),
                Some(item) => (item?, None),
            },
            Range::Map(map, keys) => match keys.get(i) {
                None => return Ok(false),
                Some(key) => (key.clone(), fold.var2.map(|_| map.at(key))),
            },
        };
        self.set(fold.var, first);
        if let (Some(slot), Some(value)) = (fold.var2, second) {
            self.set(slot, value?);
        }
        Ok(true)
    }

    /// `all` and `exists`. Per round the accumulator is looked at twice, and for `exists` negated.
    fn quantifier(
        &mut self,
        fold: &'p Fold,
        range: &Range<'p>,
        predicate: &'p Node,
        all: bool,
    ) -> Outcome<'p> {
        let round = if all { 2 } else { 3 };
        let mut failure: Option<EvalError> = None;
        for i in 0.. {
            let holds = match self.next(fold, range, i) {
                Ok(false) => break,
                Ok(true) => {
                    self.charge(round + 1)?;
                    self.eval(predicate)
                }
                Err(error) => Err(error),
            };
            match holds {
                Ok(Value::Bool(b)) if b != all => {
                    // One more look finds that it is decided, if there is a next round.
                    let more = matches!(self.next(fold, range, i + 1), Ok(true) | Err(_));
                    self.charge(if more { round + 1 } else { 1 })?;
                    return Ok(Value::Bool(!all));
                }
                Ok(Value::Bool(_)) => {}
                Ok(_) => drop(failure.get_or_insert_with(EvalError::no_such_overload)),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        self.charge(1)?;
        failure.map_or(Ok(Value::Bool(all)), Err)
    }

    fn collect(
        &mut self,
        fold: &'p Fold,
        range: &Range<'p>,
        [init, step, result]: [&'p Node; 3],
    ) -> Outcome<'p> {
        let value = self.eval(init)?;
        self.set(fold.accu, value);
        for i in 0.. {
            if !self.next(fold, range, i)? {
                break;
            }
            // Not every step costs something.
            self.toil(1)?;
            let value = self.eval(step)?;
            self.set(fold.accu, value);
        }
        self.eval(result)
    }

    fn take(&mut self, slot: usize) -> Value<'p> {
        self.locals.get_mut(slot).map(std::mem::take).unwrap_or_default()
    }

    /// Costs what `@result + [item]` would: the name, the list if it is no constant, the sum.
    pub(super) fn append(&mut self, accu: usize, item: &'p Node) -> Outcome<'p> {
        self.charge(1)?;
        let value = self.eval(item)?;
        let list = if matches!(item, Node::Const(_)) { 0 } else { LIST_CREATE };
        self.charge(list + 1)?;
        match self.take(accu) {
            Value::List(mut made) => {
                let before = made.weight();
                made.push(value)?;
                self.grown(before, made.weight())?;
                Ok(Value::List(made))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// Costs what `cel.@mapInsert(@result, ..)` would: the name and the call.
    pub(super) fn insert(&mut self, accu: usize, entry: &'p [Node]) -> Outcome<'p> {
        self.charge(1)?;
        let values = entry.iter().map(|node| self.eval(node)).collect::<Result<Vec<_>, _>>()?;
        self.charge(1)?;
        let Value::Map(Map::Made(mut made)) = self.take(accu) else {
            return Err(EvalError::no_such_overload());
        };
        let before = made.weight();
        let map: &mut OwnedMap<'p> = Arc::make_mut(&mut made);
        match values.as_slice() {
            [key, value] => map.insert(key.clone(), value.clone())?,
            [Value::Map(more)] => {
                for (key, value) in more.entries() {
                    map.insert(key, value?)?;
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        self.grown(before, made.weight())?;
        Ok(Value::Map(Map::Made(made)))
    }
}
