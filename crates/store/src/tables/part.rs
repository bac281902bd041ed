//! The files of a table of several.

/// One of the files of a table, which stand in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePart {
    /// Which, from 0.
    pub number: u64,
    /// How many there are.
    pub of: u64,
}

impl TablePart {
    /// `part-00007.parquet`: five digits, and more where there are more parts, so that readers that sort names keep the order.
    pub(crate) fn file(self) -> String {
        let digits = self.of.saturating_sub(1).max(self.number).max(1).ilog10() as usize + 1;
        format!("part-{:0digits$}.parquet", self.number, digits = digits.max(5))
    }
}

#[cfg(test)]
mod tests {
    use super::TablePart;

    #[test]
    fn names_sort_as_parts_do() {
        let name = |number, of| TablePart { number, of }.file();
        assert_eq!(name(0, 0), "part-00000.parquet");
        assert_eq!(name(7, 100_000), "part-00007.parquet");
        assert_eq!(name(99_999, 100_000), "part-99999.parquet");
        assert_eq!(name(99_999, 100_001), "part-099999.parquet");
        assert!(name(99_999, 100_001) < name(100_000, 100_001));
    }
}
