//! Columns of moments that are stored as INT96, as Spark, Hive and Impala have written them: read in microseconds, as Spark has them. In nanoseconds,
//! the decoder's default, a moment before 1677 or after 2262 comes out as another one.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use parquet::basic::Type as PhysicalType;
use parquet::schema::types::SchemaDescriptor;

/// The schema to read a file by, `schema` being the decoder's own; `None` where it has no such column.
pub(crate) fn in_microseconds(file: &SchemaDescriptor, schema: &Schema) -> Option<SchemaRef> {
    let stored = file.root_schema().get_fields();
    let is_int96 = |at: usize| {
        let stored = stored.get(at).filter(|stored| stored.is_primitive());
        stored.is_some_and(|stored| stored.get_physical_type() == PhysicalType::INT96)
    };
    let is_wrapped = |(at, field): (usize, &FieldRef)| {
        is_int96(at) && *field.data_type() == DataType::Timestamp(TimeUnit::Nanosecond, None)
    };
    if stored.len() != schema.fields().len() || !schema.fields().iter().enumerate().any(is_wrapped) {
        return None;
    }
    let fields = schema.fields().iter().enumerate().map(|(at, field)| {
        if is_wrapped((at, field)) {
            let moments = DataType::Timestamp(TimeUnit::Microsecond, None);
            Arc::new(field.as_ref().clone().with_data_type(moments))
        } else {
            Arc::clone(field)
        }
    });
    let fields: Vec<FieldRef> = fields.collect();
    Some(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use parquet::data_type::{FloatType, Int96, Int96Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::{StoreOptions, Stores, Table};

    const DAY: i64 = 86_400_000_000;
    /// Days since 1970 of the first of January of 2300 and of 1500.
    const FAR: [i64; 2] = [120_530, -171_664];

    /// A file with moments so many days and microseconds from 1970, the last row being null, beside lists.
    fn file(moments: [(i64, i64); 3]) -> Vec<u8> {
        let schema = parse_message_type(
            "message schema { OPTIONAL INT96 seen; \
             OPTIONAL group flux (LIST) { REPEATED group list { OPTIONAL FLOAT element; } } }",
        );
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema.unwrap()), Arc::default()).unwrap();
        let mut row_group = writer.next_row_group().unwrap();
        let values = moments.map(|(days, micros)| {
            let nanos = (1000 * micros).cast_unsigned();
            let mut value = Int96::new();
            let day = u32::try_from(days + 2_440_588).unwrap();
            value.set_data((nanos & 0xffff_ffff) as u32, (nanos >> 32) as u32, day);
            value
        });
        let mut seen = row_group.next_column().unwrap().unwrap();
        let levels = Some(&[1, 1, 1, 0][..]);
        seen.typed::<Int96Type>().write_batch(&values, levels, None).unwrap();
        seen.close().unwrap();
        let mut flux = row_group.next_column().unwrap().unwrap();
        let (levels, lists) = (Some(&[3, 3, 3, 3][..]), Some(&[0, 0, 0, 0][..]));
        flux.typed::<FloatType>().write_batch(&[1.0; 4], levels, lists).unwrap();
        flux.close().unwrap();
        row_group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn moments_far_from_now_are_read_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen.parquet");
        let moments = [(FAR[0], 5), (FAR[1], 7), (19_782, 11)];
        std::fs::write(&path, file(moments)).unwrap();
        let stores = Stores::new(StoreOptions::default(), 1).unwrap();
        let table = Table::open(&stores, path.to_str().unwrap()).unwrap();
        let batch = table.batches(None, 10).unwrap().next().unwrap().unwrap();
        let seen: Vec<Option<i64>> = batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .collect();
        let [a, b, c] = moments.map(|(days, micros)| Some(days * DAY + micros));
        assert_eq!(seen, [a, b, c, None]);
        assert_eq!(batch.column(1).as_list::<i32>().value_length(3), 1);
    }
}
