//! Lists in objects, where what is no list has nothing in it.

use serde_json::Value;

/// What is in a list.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The texts in a list.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    items(list).filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
