//! Pieces of HTML: escaped text, tables, figures.

use std::fmt::Write;

/// One cell of a table.
pub(crate) enum Cell {
    /// Text: left.
    Text(String),
    /// A number: right.
    Number(String),
    /// Ready HTML: left.
    Html(String),
}

impl Cell {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// Text, or the value of an attribute in double quotes, as HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in HTML.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A paragraph of text.
pub(crate) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A paragraph in a box that nobody overlooks.
pub(crate) fn warning(text: &str) -> String {
    format!("<p class=\"warning\">{}</p>\n", escape(text))
}

/// A table; the header of a column stands as its first row's cell does. Without a header: names and what they are, in lines that break
/// anywhere.
pub(crate) fn table(header: &[&str], rows: &[Vec<Cell>]) -> String {
    let class = if header.is_empty() { " class=\"facts\"" } else { "" };
    let mut out = format!("<div class=\"wide\"><table{class}>\n");
    if !header.is_empty() {
        out.push_str("<thead><tr>");
        for (column, name) in header.iter().enumerate() {
            let number = rows
                .first()
                .and_then(|row| row.get(column))
                .is_some_and(|cell| matches!(cell, Cell::Number(_)));
            let class = if number { " class=\"number\"" } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(out, "<th{class}>{}</th>", escape(name));
        }
        out.push_str("</tr></thead>\n");
    }
    out.push_str("<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = match cell {
                Cell::Text(text) => write!(out, "<td>{}</td>", escape(text)),
                Cell::Number(text) => write!(out, "<td class=\"number\">{}</td>", escape(text)),
                Cell::Html(html) => write!(out, "<td>{html}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

/// A plot with what it shows beneath it.
pub(crate) fn figure(svg: &str, caption: &str) -> String {
    let caption = escape(caption);
    format!(
        "<figure><div role=\"img\" aria-label=\"{caption}\">{svg}</div><figcaption>{caption}</figcaption></figure>\n"
    )
}

/// Figures side by side, where there is room.
pub(crate) fn figures(figures: &[String]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    format!("<div class=\"figures\">\n{}</div>\n", figures.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_markup_is_text() {
        assert_eq!(
            escape("<a href=\"x\">&'\u{7}"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}"
        );
        let rows = vec![vec![Cell::text("<b>"), Cell::Number("1".into())]];
        let table = table(&["a", "n"], &rows);
        assert!(table.contains("<th>a</th><th class=\"number\">n</th>"));
        assert!(table.contains("<td>&lt;b&gt;</td><td class=\"number\">1</td>"));
    }
}
