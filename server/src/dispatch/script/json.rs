//! cjson of scripts: JSON text to Lua values and back.
//!
//! As in Redis an empty table is written as an object, and null is a value of its own.

use mlua::{Lua, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Levels of nesting, in both directions.
const DEPTH_MAX: u32 = 100;

fn failed(text: &str) -> mlua::Error {
    mlua::Error::runtime(text)
}

/// Reads JSON.
pub(super) fn decode(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    let json: Json = serde_json::from_slice(text).map_err(|error| failed(&error.to_string()))?;
    to_lua(lua, &json)
}

fn to_lua(lua: &Lua, json: &Json) -> mlua::Result<Value> {
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(truth) => Value::Boolean(*truth),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let table = lua.create_table()?;
            for item in items {
                table.raw_push(to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
        Json::Object(fields) => {
            let table = lua.create_table()?;
            for (name, value) in fields {
                table.raw_set(name.as_str(), to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
    })
}

/// Writes JSON.
pub(super) fn encode(value: &Value) -> mlua::Result<String> {
    Ok(from_lua(value, 0)?.to_string())
}

fn from_lua(value: &Value, depth: u32) -> mlua::Result<Json> {
    if depth > DEPTH_MAX {
        return Err(failed("Cannot serialise, excessive depth"));
    }
    Ok(match value {
        Value::Nil | Value::LightUserData(_) => Json::Null,
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::Integer(number) => Json::Number((*number).into()),
        Value::Number(number) => self::number(*number)?,
        Value::String(text) => Json::String(text.to_string_lossy()),
        Value::Table(table) => self::table(table, depth)?,
        other => return Err(failed(&format!("Cannot serialise {}", other.type_name()))),
    })
}

/// A whole number is written without a point.
#[allow(clippy::cast_possible_truncation, reason = "only numbers that fit are converted")]
fn number(number: f64) -> mlua::Result<Json> {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Ok(Json::Number((number as i64).into()));
    }
    Number::from_f64(number)
        .map(Json::Number)
        .ok_or_else(|| failed("Cannot serialise number: must not be NaN or Inf"))
}

fn table(table: &Table, depth: u32) -> mlua::Result<Json> {
    let length = table.raw_len();
    let mut pairs = 0;
    for pair in table.pairs::<Value, Value>() {
        pair?;
        pairs += 1;
    }
    if length > 0 && pairs == length {
        let items = (1..=length).map(|at| from_lua(&table.raw_get::<Value>(at)?, depth + 1));
        return Ok(Json::Array(items.collect::<mlua::Result<_>>()?));
    }
    let mut fields = Map::new();
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair?;
        let name = match name {
            Value::String(name) => name.to_string_lossy(),
            Value::Integer(number) => number.to_string(),
            Value::Number(number) => number.to_string(),
            _ => return Err(failed("Cannot serialise table: table key must be a number or string")),
        };
        fields.insert(name, from_lua(&value, depth + 1)?);
    }
    Ok(Json::Object(fields))
}
