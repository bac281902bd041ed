//! What errors say beyond what went wrong: what to do about it.

pub(super) fn of_bytes(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(" ({bytes} bytes)"),
    }
}

/// What to do about a document of an output or a line that cannot be understood, by its place there.
pub(super) fn made_good(uri: &str) -> &'static str {
    let (folder, name) = uri.rsplit_once('/').unwrap_or(("", uri));
    let is_of_release = folder.rsplit('/').nth(1) == Some("releases");
    match name {
        "manifest.json" if is_of_release => "; put it back from a copy",
        "manifest.json" => {
            "; put it back from a copy, or run the run file again with --overwrite, which makes the output anew"
        }
        "claim.json" => "; put it back from a copy, or choose another output",
        _ if folder.ends_with("/claims") => "; put it back from a copy, or choose another output",
        _ if folder.ends_with("/commits") => "; put it back from a copy",
        _ if name.ends_with(".done") => "; delete it and run again, which computes that group anew",
        _ if folder.contains("/posterior") => {
            "; put it back from a copy, or run the run file again with --overwrite, which makes the output anew"
        }
        _ => "",
    }
}

/// What to do about a column of another type, as astropy and pandas come to write it.
pub(super) fn cast(column: &str, found: &str, expected: &str) -> String {
    let is_floating = ["float", "double", "float16"].contains(&found);
    let is_of_keys = expected.ends_with("an integer") || expected.starts_with("int") || expected.starts_with("uint");
    if found.contains("binary") && expected.contains("string") {
        ": cast it to a string (astropy: table.convert_bytestring_to_unicode())".to_owned()
    } else if is_floating && is_of_keys {
        format!(
            ": cast it to an integer (pandas makes doubles of integers where one is missing: \
             table[\"{column}\"].astype(\"Int64\") keeps them)"
        )
    } else if found == "a string" && expected == "a number" {
        format!(": cast it to a number (pandas: pandas.to_numeric(table[\"{column}\"]))")
    } else {
        String::new()
    }
}

/// What to do about a column beside which another masks it.
pub(super) fn unmasked(column: &str, is_list: bool) -> String {
    let nulls = "write nulls in their place, as README.md, \"Your own data\", says";
    match is_list {
        true => format!("write mask = \"{column}.mask\", or {nulls}"),
        false => nulls.to_owned(),
    }
}

/// By what the objects in a folder named as an object are read. `pattern`: one that reads them beside the others.
pub(super) fn reads_folder(folder: &str, pattern: Option<&str>) -> String {
    match pattern {
        Some(pattern) => format!("{pattern} reads them, too, and {folder}/*.parquet them alone"),
        None => format!("{folder}/*.parquet reads them alone"),
    }
}

pub(super) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"))
}

#[cfg(test)]
mod tests {
    use crate::{Cause, StoreError};

    #[test]
    fn a_document_that_cannot_be_understood_is_made_good_by_what_fits_it() {
        let said = |uri: &str| {
            let source = Cause::said("EOF");
            let uri = uri.to_owned();
            StoreError::BadDocument { uri, source }.to_string()
        };
        for (uri, remedy) in [
            ("/out/manifest.json", "--overwrite, which makes the output anew"),
            ("s3://b/out/posterior/hessian/a.parquet", "--overwrite"),
            ("/line/releases/3/manifest.json", "put it back from a copy"),
            ("/line/commits/3.json", "put it back from a copy"),
            ("/out/claims/2.json", "choose another output"),
            ("/out/stages/groups/sums/ab.done", "delete it and run again"),
        ] {
            assert!(said(uri).contains(remedy), "{}", said(uri));
        }
        assert!(!said("/line/releases/3/manifest.json").contains("overwrite"));
        assert!(said("/tiles/a").ends_with("from a newer fisherflow"));
    }
}
