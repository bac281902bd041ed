//! Columns of moments that are stored as INT96, as Spark, Hive and Impala have written them: read in microseconds, as Spark has them. In nanoseconds,
//! the decoder's default, a moment before 1677 or after 2262 comes out as another one.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use parquet::basic::Type as PhysicalType;
use parquet::schema::types::SchemaDescriptor;

/// The schema to read a file by, `schema` being the decoder's own; `None` where it has no such column, nor one in lists or structs.
pub(crate) fn in_microseconds(file: &SchemaDescriptor, schema: &Schema) -> Option<SchemaRef> {
    let mut stored = file.columns().iter().map(|column| column.physical_type());
    if !stored.clone().any(|stored| stored == PhysicalType::INT96) {
        return None;
    }
    let fields = fields_read(schema.fields(), &mut stored);
    Some(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// As fields are read; `stored`: how the columns are stored that they and those behind them are made of, in the order of the file.
fn fields_read(fields: &Fields, stored: &mut impl Iterator<Item = PhysicalType>) -> Fields {
    fields.iter().map(|field| field_read(field, stored)).collect()
}

fn field_read(field: &FieldRef, stored: &mut impl Iterator<Item = PhysicalType>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(elements) => DataType::List(field_read(elements, stored)),
        DataType::Map(entries, sorted) => DataType::Map(field_read(entries, stored), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields_read(fields, stored)),
        of_column => match (stored.next(), of_column) {
            (Some(PhysicalType::INT96), DataType::Timestamp(TimeUnit::Nanosecond, None)) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            (_, other) => other.clone(),
        },
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
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

    /// A file with moments so many days and microseconds from 1970, the last row being null, beside lists, and the same in lists of one.
    fn file(moments: [(i64, i64); 3]) -> Vec<u8> {
        let schema = parse_message_type(
            "message schema { OPTIONAL INT96 seen; \
             OPTIONAL group flux (LIST) { REPEATED group list { OPTIONAL FLOAT element; } } \
             OPTIONAL group visits (LIST) { REPEATED group list { OPTIONAL INT96 element; } } }",
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
        let mut visits = row_group.next_column().unwrap().unwrap();
        let levels = Some(&[3, 3, 3, 2][..]);
        visits.typed::<Int96Type>().write_batch(&values, levels, lists).unwrap();
        visits.close().unwrap();
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
        let in_lists = batch.column(2).as_list::<i32>().values();
        let [seen, visits] = [batch.column(0), in_lists].map(|moments| -> Vec<Option<i64>> {
            let moments = moments.as_primitive::<TimestampMicrosecondType>();
            moments.iter().collect()
        });
        let [a, b, c] = moments.map(|(days, micros)| Some(days * DAY + micros));
        assert_eq!(seen, [a, b, c, None]);
        assert_eq!(visits, seen);
        assert_eq!(batch.column(1).as_list::<i32>().value_length(3), 1);
    }
}
