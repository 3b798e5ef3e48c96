//! Values to JSON: what mutations and audit annotations need.

use base64::Engine as _;
use serde_json::Value as Json;

use super::{Map, Value, key_text};
use crate::error::EvalError;

impl Value<'_> {
    /// The value as JSON. Fields of constructed objects get their JSON names; optionals without a
    /// value are `null`.
    ///
    /// # Errors
    /// When the value is of a type JSON has nothing for, or data in it is not as declared.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null | Self::Optional(None) => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => {
                serde_json::Number::from_f64(*d).map(Json::Number).ok_or_else(|| cannot(self))?
            }
            Self::String(text) => Json::String(text.to_string()),
            Self::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Self::Timestamp(moment) => Json::String(moment.to_string()),
            Self::Duration(span) => Json::String(span.to_string()),
            Self::List(list) => {
                Json::Array(list.iter().map(|item| item?.to_json()).collect::<Result<_, _>>()?)
            }
            Self::Map(map) => Json::Object(object(map)?),
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Quantity(quantity) => Json::String(quantity.to_string()),
            Self::Url(url) => Json::String(url.to_string()),
            Self::Ip(ip) => Json::String(ip.to_string()),
            Self::Cidr(cidr) => Json::String(cidr.to_string()),
            Self::Semver(version) => Json::String(version.to_string()),
            Self::Type(_) | Self::Format(_) | Self::Check(_) => return Err(cannot(self)),
        })
    }
}

fn object(map: &Map<'_>) -> Result<serde_json::Map<String, Json>, EvalError> {
    match map {
        // Data goes out as it came in, fields no expression can name included.
        Map::Data(fields, _) | Map::Object(fields, _) => Ok((*fields).clone()),
        Map::Struct(object) => {
            let named = object.fields.iter().map(|(name, value)| {
                let json = object
                    .decl
                    .get(name)
                    .map(|field| &*field.json)
                    .filter(|json| !json.is_empty())
                    .unwrap_or(name);
                Ok((json.to_owned(), value.to_json()?))
            });
            named.collect()
        }
        _ => map.entries().into_iter().map(|(key, value)| Ok((key_text(&key), value?.to_json()?))).collect(),
    }
}

fn cannot(value: &Value<'_>) -> EvalError {
    EvalError::new(format!("{} cannot be written as JSON", value.ty().head()))
}
