//! JSON as Python's `json.dump` writes it: the same spaces, the same spelling of numbers.
//!
//! LlamaFactory's files are read by people and by scripts that compare text; ours look the same to both. What its templates
//! write of tools and calls is such JSON too, and there every blank is a token.

use crate::error::{Error, Result};
use serde_json::{
    Map, Value,
    ser::{Formatter, Serializer},
};
use std::io::{self, Write};

/// A JSON object; its keys keep the order they were put in.
pub type Object = Map<String, Value>;

/// `json.dumps(object)`: one line, `", "` and `": "` between, keys as they stand.
pub fn line(object: &Object) -> Result<String> {
    render(object, Python { indent: None, depth: 0, empty: true })
}

/// `json.dumps(value, ensure_ascii=False)`, on one line as well.
pub fn dumps(value: &Value) -> Result<String> {
    render(value, Python { indent: None, depth: 0, empty: true })
}

/// `json.dumps(object, indent=indent, sort_keys=True)`.
pub fn sorted(object: &Object, indent: usize) -> Result<String> {
    let mut value = Value::Object(object.clone());
    value.sort_all_objects();
    render(&value, Python { indent: Some(indent), depth: 0, empty: true })
}

/// Rounds to `digits` decimals as Python's `round` does: from the exact value, ties to even.
pub fn round(value: f64, digits: usize) -> f64 {
    format!("{value:.digits$}").parse().unwrap_or(value)
}

fn render(value: &impl serde::Serialize, style: Python) -> Result<String> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, style))
        .map_err(|err| Error::run(format!("cannot write JSON: {err}")))?;
    String::from_utf8(bytes).map_err(|err| Error::run(format!("cannot write JSON: {err}")))
}

/// The spelling of a finite float in Python: shortest digits that read back, an exponent from 1e16 and below 1e-4.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        e @ (..-4 | 16..) => format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
        _ => format!("{value}") + if value.fract() == 0.0 { ".0" } else { "" },
    }
}

struct Python {
    /// Spaces per level; `None`: everything on one line.
    indent: Option<usize>,
    depth: usize,
    /// Nothing was written yet in the innermost array or object.
    empty: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.new_line(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        match (first, self.indent) {
            (true, _) => {}
            (false, Some(_)) => writer.write_all(b",")?,
            (false, None) => writer.write_all(b", ")?,
        }
        self.empty = false;
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        write!(writer, "\n{:width$}", "", width = indent * self.depth)
    }
}

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn floats_are_spelled_as_python_spells_them() {
        // Right column: `repr(x)` of CPython 3.11.
        for (value, want) in [
            (0.0, "0.0"),
            (4.0, "4.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (2.5e-5, "2.5e-05"),
            (1.234e-100, "1.234e-100"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e22, "1.5e+22"),
            (-3.25, "-3.25"),
        ] {
            assert_eq!(float(value), want);
        }
    }

    #[test]
    fn rounding_starts_from_the_exact_value() {
        for (value, digits, want, why) in [
            (2.675, 2, 2.67, "2.675 is a little less than it looks"),
            (0.125, 2, 0.12, "a real tie goes to the even digit"),
            (33.333333, 2, 33.33, "plain"),
            (f64::INFINITY, 2, f64::INFINITY, "infinity stays"),
        ] {
            assert_eq!(round(value, digits), want, "{why}");
        }
    }

    #[test]
    fn lines_keep_their_key_order_and_pythons_spaces() {
        let got = line(&object(json!({"b": 1, "a": [1, 2.0], "s": "x", "none": f64::NAN}))).unwrap();
        assert_eq!(got, r#"{"b": 1, "a": [1, 2.0], "s": "x", "none": null}"#);
    }

    #[test]
    fn pretty_objects_are_sorted_at_every_level() {
        let got = sorted(&object(json!({"z": [], "b": {"y": 1, "x": [{}, 2]}, "a": null})), 2).unwrap();
        let want = "{\n  \"a\": null,\n  \"b\": {\n    \"x\": [\n      {},\n      2\n    ],\n    \"y\": 1\n  },\n  \"z\": []\n}";
        assert_eq!(got, want);
    }
}
