//! The page: its head, its style, and its sections in order.

use crate::ReportError;
use crate::findings::Findings;
use crate::html::escape;
use crate::sections;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(crate) fn page(findings: &Findings) -> Result<String, ReportError> {
    let title = format!("fisherflow run {}", findings.manifest.run_id);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    out.push_str(&sections::overview(findings));
    let sections = [
        ("What was run", Some(sections::run(findings))),
        ("Counts", Some(sections::counts(findings))),
        ("Error bars", Some(sections::errors(findings)?)),
        ("Are the error bars right?", Some(sections::pulls(findings))),
        ("Blocks of the weights' posterior", Some(sections::blocks(findings))),
        ("Which pixels count", sections::jacobians(findings)?),
    ];
    for (heading, section) in sections {
        if let Some(section) = section {
            out.push_str(&format!(
                "<section>\n<h2>{}</h2>\n{section}</section>\n",
                escape(heading)
            ));
        }
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}
