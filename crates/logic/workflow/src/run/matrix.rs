//! The combinations of a matrix.

use crate::{
    expr::{Env, EvalError, Object, Value},
    model::{Matrix, Tree},
};

/// Combinations before exclusion at the most.
const MAX_COMBINATIONS: usize = 10_000;

pub(super) fn expand(matrix: &Matrix, env: &Env<'_>) -> Result<Vec<Object>, EvalError> {
    let (mut dimensions, mut include, mut exclude) = (Vec::new(), Vec::new(), Vec::new());
    match matrix {
        Matrix::Whole(template) => {
            let value = template.value(env)?;
            let object = value.as_object().ok_or_else(|| {
                let hint = "give a mapping of lists, such as {\"os\": [\"a\", \"b\"]}";
                EvalError::new(format!("the expression gives a {}", value.kind()), hint)
            })?;
            for (name, values) in object.iter() {
                match name {
                    "include" => include = entries(values, name)?,
                    "exclude" => exclude = entries(values, name)?,
                    _ => dimensions.push((name.to_owned(), list(values, name)?)),
                }
            }
        }
        Matrix::Parts { dimensions: parts, include: more, exclude: less } => {
            for (name, tree) in parts {
                dimensions.push((name.clone(), list(&evaluate(tree, env)?, name)?));
            }
            if let Some(tree) = more {
                include = entries(&evaluate(tree, env)?, "include")?;
            }
            if let Some(tree) = less {
                exclude = entries(&evaluate(tree, env)?, "exclude")?;
            }
        }
    }
    combine(&dimensions, &include, &exclude)
}

fn evaluate(tree: &Tree, env: &Env<'_>) -> Result<Value, EvalError> {
    Ok(match tree {
        Tree::Value(value) => value.clone(),
        Tree::Template(template) => template.value(env)?,
        Tree::List(items) => Value::array(items.iter().map(|i| evaluate(i, env)).collect::<Result<_, _>>()?),
        Tree::Map(entries) => entries
            .iter()
            .map(|(key, item)| Ok((key, evaluate(item, env)?)))
            .collect::<Result<Object, EvalError>>()?
            .into(),
    })
}

fn list(value: &Value, name: &str) -> Result<Vec<Value>, EvalError> {
    match value {
        Value::Array { items, .. } => Ok(items.to_vec()),
        other => {
            let hint = "give a list of values, such as [\"a\", \"b\"]";
            Err(EvalError::new(format!("'{name}' is no list but a {}", other.kind()), hint))
        }
    }
}

fn entries(value: &Value, name: &str) -> Result<Vec<Object>, EvalError> {
    let entry = |value: &Value| {
        value.as_object().cloned().ok_or_else(|| {
            let message = format!("an entry of '{name}' is no mapping but a {}", value.kind());
            EvalError::new(message, "give each entry as names with values, such as {\"os\": \"a\"}")
        })
    };
    list(value, name)?.iter().map(entry).collect()
}

fn combine(
    dimensions: &[(String, Vec<Value>)],
    include: &[Object],
    exclude: &[Object],
) -> Result<Vec<Object>, EvalError> {
    let count = dimensions.iter().try_fold(1usize, |count, (_, values)| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > MAX_COMBINATIONS) {
        let message = format!("it has more than {MAX_COMBINATIONS} combinations");
        return Err(EvalError::new(message, "make its lists shorter"));
    }
    let mut combinations = if dimensions.is_empty() { Vec::new() } else { vec![Object::new()] };
    for (name, values) in dimensions {
        combinations = combinations
            .iter()
            .flat_map(|combination| {
                values.iter().map(move |value| {
                    let mut next = combination.clone();
                    next.set(name.clone(), value.clone());
                    next
                })
            })
            .collect();
    }
    combinations.retain(|combination| !exclude.iter().any(|excluded| covers(combination, excluded)));
    let originals = combinations.clone();
    for entry in include {
        let mut used = false;
        for (combination, original) in combinations.iter_mut().zip(&originals) {
            let overwrites = entry
                .iter()
                .any(|(name, value)| original.get(name).is_some_and(|own| own.to_json() != value.to_json()));
            if !overwrites {
                used = true;
                entry.iter().for_each(|(name, value)| combination.set(name, value.clone()));
            }
        }
        if !used {
            combinations.push(entry.clone());
        }
    }
    Ok(combinations)
}

/// Whether a combination has everything an exclusion names.
fn covers(combination: &Object, excluded: &Object) -> bool {
    excluded.iter().all(|(name, wanted)| match (combination.get(name), wanted) {
        (Some(Value::Object(own)), Value::Object(wanted)) => covers(own, wanted),
        (Some(own), wanted) => own.to_json() == wanted.to_json(),
        (None, _) => false,
    })
}
