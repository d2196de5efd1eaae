//! Rows out of parquet, in a program that is built with the feature of that name.
//!
//! The file is held in memory while it is read: it is packed, and small beside its rows. Columns that are text are text;
//! lists of groups are what lists of objects are in JSON.

#[cfg(feature = "parquet")]
pub(super) use present::{open, read};

#[cfg(not(feature = "parquet"))]
pub(super) use absent::{open, read};

#[cfg(feature = "parquet")]
mod present {
    use crate::{
        dataset::{cell::Cell, record::Rows},
        error::{Error, Result, io_reason},
    };
    use bytes::Bytes;
    use parquet::{
        errors::ParquetError,
        file::{reader::FileReader, serialized_reader::SerializedFileReader},
        record::{Field, Row},
    };
    use serde_json::{Map, Value};
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
    };

    /// Reads the rows of a file.
    pub(crate) fn open(path: &Path, rows: &mut Rows) -> Result<()> {
        let bytes = fs::read(path).map_err(|err| {
            Error::file(path, format!("cannot read: {}", io_reason(&err)))
                .hint("check the path, and that you may read the file")
                .hint_zh("请检查路径与读取权限")
        })?;
        all(bytes.into(), rows)
    }

    /// Reads the rows of the bytes of a file.
    pub(crate) fn read(bytes: &[u8], rows: &mut Rows) -> Result<()> {
        all(Bytes::copy_from_slice(bytes), rows)
    }

    /// The crate panics at some files that are damaged.
    fn all(bytes: Bytes, rows: &mut Rows) -> Result<()> {
        let path = rows.path();
        let damaged = |reason: String| {
            Error::file(path, format!("not a parquet file that can be read: {reason}"))
                .hint("fetch it again, or save its rows as JSON Lines")
                .hint_zh("请重新获取该文件，或将其数据转为 JSON Lines")
        };
        match catch_unwind(AssertUnwindSafe(|| rows_of(bytes, rows))) {
            Ok(Ok(result)) => result,
            Ok(Err(err)) => Err(damaged(err.to_string())),
            Err(_) => Err(damaged("it is damaged, or of a kind that is not known".into())),
        }
    }

    fn rows_of(bytes: Bytes, rows: &mut Rows) -> Result<Result<()>, ParquetError> {
        let reader = SerializedFileReader::new(bytes)?;
        let meta = reader.metadata().file_metadata();
        for column in meta.schema().get_fields() {
            rows.wanted.meet(column.name());
        }
        let count = usize::try_from(meta.num_rows()).unwrap_or(0);
        let mut read = 0;
        let mut iter = reader.get_row_iter(None)?;
        while rows.wants_more() {
            let Some(row) = iter.next() else { return Ok(Ok(())) };
            read += 1;
            if let Err(error) = add(row?, rows) {
                return Ok(Err(error));
            }
        }
        rows.pass(count.saturating_sub(read));
        Ok(Ok(()))
    }

    fn add(row: Row, rows: &mut Rows) -> Result<()> {
        let mut cells = rows.wanted.empty();
        let mut fault = Ok(());
        for (name, field) in row.into_columns() {
            let column = rows.wanted.meet(&name);
            fault = fault.and(rows.wanted.put(&mut cells, column, cell(field)));
        }
        rows.add(None, fault.map(|()| cells))
    }

    fn cell(field: Field) -> Cell {
        match field {
            Field::Str(text) => Cell::Text(text),
            Field::Bytes(_) => Cell::Other("bytes"),
            Field::Date(_)
            | Field::TimeMillis(_)
            | Field::TimeMicros(_)
            | Field::TimestampMillis(_)
            | Field::TimestampMicros(_) => Cell::Other("a time"),
            field => value(field).into(),
        }
    }

    /// As JSON would have it. What JSON has no word for is never text, whatever it is.
    fn value(field: Field) -> Value {
        match field {
            Field::Str(text) => text.into(),
            Field::Bool(value) => value.into(),
            Field::Byte(n) => n.into(),
            Field::Short(n) => n.into(),
            Field::Int(n) => n.into(),
            Field::Long(n) => n.into(),
            Field::UByte(n) => n.into(),
            Field::UShort(n) => n.into(),
            Field::UInt(n) => n.into(),
            Field::ULong(n) => n.into(),
            Field::Float(x) => x.into(),
            Field::Double(x) => x.into(),
            Field::Float16(x) => x.to_f32().into(),
            Field::Group(row) => {
                Value::Object(row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect())
            }
            Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
            Field::MapInternal(map) => {
                let entry = |(key, field): &(Field, Field)| match key {
                    Field::Str(key) => Some((key.clone(), value(field.clone()))),
                    _ => None,
                };
                Value::Object(map.entries().iter().filter_map(entry).collect::<Map<_, _>>())
            }
            _ => Value::Null,
        }
    }
}

#[cfg(not(feature = "parquet"))]
mod absent {
    use crate::{
        dataset::record::Rows,
        error::{Error, Result},
    };
    use std::path::Path;

    /// Not reached by a data set: its files are refused by their names.
    pub(crate) fn open(path: &Path, _: &mut Rows) -> Result<()> {
        Err(Error::file(path, "this program was built without parquet")
            .hint("build it with `cargo build --release --features parquet`")
            .hint_zh("请用 `cargo build --release --features parquet` 编译"))
    }

    /// The same.
    pub(crate) fn read(_: &[u8], rows: &mut Rows) -> Result<()> {
        open(rows.path(), rows)
    }
}
