//! What errors say beyond what went wrong: what to do about it.

use crate::Cause;
use crate::objects::verdict::is_skewed;

pub(super) fn of_bytes(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(" ({bytes} bytes)"),
    }
}

/// What to look at where a store failed again and again, by what it said at last.
pub(super) fn at_fault(said: &Cause) -> &'static str {
    if is_skewed(said) {
        "set this machine's clock (the store says that it is wrong)"
    } else {
        "look at the store"
    }
}

/// What else allows more patience, by what was said at last: of a request that took too long each further one may.
pub(super) fn of_timeout(said: &Cause) -> &'static str {
    // As the client words it, of a request and of a connection that does not come about.
    if said.text().contains("operation timed out") && !said.text().contains("(Connect)") {
        ", and timeout_seconds where the connection is slow"
    } else {
        ""
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

/// What to do about a column beside which another masks it. astropy writes that only where something is masked.
pub(super) fn unmasked(column: &str, can_be_named: bool) -> String {
    let nulls = "write nulls in their place, as README.md, \"Your own data\", says";
    match can_be_named {
        true => format!("{nulls}, or, where every object has that column, mask = \"{column}.mask\""),
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

    fn spent(said: &str) -> String {
        let error = StoreError::Exhausted {
            uri: "s3://b/out/a.parquet".to_owned(),
            bytes: String::new(),
            action: "written",
            attempts: 3,
            seconds: 180.0,
            limit: "retry_seconds",
            source: Cause::said(said),
        };
        error.to_string()
    }

    #[test]
    fn where_patience_ends_over_a_wrong_clock_the_clock_is_named() {
        let said = spent("403 Forbidden: <Code>RequestTimeTooSkewed</Code>");
        assert!(
            said.contains("this machine's clock") && !said.contains("look at the store"),
            "{said}"
        );
        let said = spent("503 Service Unavailable: <Code>SlowDown</Code>");
        assert!(!said.contains("clock") && said.contains("look at the store"), "{said}");
    }

    #[test]
    fn where_patience_ends_over_requests_that_take_too_long_their_time_is_named_too() {
        let said = spent("HTTP error: error sending request: operation timed out");
        assert!(said.contains("retry_seconds, and timeout_seconds"), "{said}");
        for other in [
            "HTTP error: error sending request: client error (Connect): operation timed out",
            "503 Service Unavailable: <Code>SlowDown</Code>",
        ] {
            let said = spent(other);
            assert!(said.contains("retry_seconds)"), "{said}");
        }
    }

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
