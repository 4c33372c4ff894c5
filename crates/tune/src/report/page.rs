//! A page: a file that needs no other, and runs nothing.

use std::fmt::Write;

use super::style::{COLORS, OF_PAGES, OF_PICTURES};
use super::text::escape;

/// The policy lets the browser refuse whatever the page should not have: scripts, and anything from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A page that grows from its top.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(title: &str, subtitle: &str) -> Page {
        Page(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n\
             <style>\n{OF_PAGES}{OF_PICTURES}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n<p class=\"soft\">{1}</p>\n",
            escape(title),
            escape(subtitle)
        ))
    }

    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", escape(text));
    }

    pub(super) fn subheading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h3>{}</h3>", escape(text));
    }

    /// A paragraph beside the matter.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.0, "<p class=\"soft note\">{}</p>", escape(text));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.0, "<p>{}</p>", escape(text));
    }

    /// Numbers that are seen first: what each is, and how much.
    pub(super) fn tiles(&mut self, tiles: &[(&str, String)]) {
        self.0 += "<ul class=\"tiles\">";
        for (what, value) in tiles {
            let _ = write!(self.0, "<li><b>{}</b><span>{}</span></li>", escape(value), escape(what));
        }
        self.0 += "</ul>\n";
    }

    /// A picture of our own making, with a legend where there is more than one name, and a caption where it says something.
    pub(super) fn figure(&mut self, picture: &str, legend: &[String], caption: &str) {
        self.0 += "<figure>";
        if legend.len() > 1 {
            self.0 += "<ul class=\"legend\">";
            for (index, name) in legend.iter().enumerate() {
                let dashed = if index >= COLORS { " dashed" } else { "" };
                let _ = write!(self.0, "<li class=\"c{}{dashed}\"><i></i>{}</li>", index % COLORS, escape(name));
            }
            self.0 += "</ul>";
        }
        self.0 += picture;
        if !caption.is_empty() {
            let _ = write!(self.0, "<figcaption>{}</figcaption>", escape(caption));
        }
        self.0 += "</figure>\n";
    }

    /// Keys and values.
    pub(super) fn pairs(&mut self, pairs: &[(String, String)]) {
        self.0 += "<div class=\"wide\"><table><tbody>\n";
        for (key, value) in pairs {
            let _ = writeln!(self.0, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(key), escape(value));
        }
        self.0 += "</tbody></table></div>\n";
    }

    /// Names on the left, numbers beside them.
    pub(super) fn numbers(&mut self, table: &Numbers) {
        self.0 += "<div class=\"wide\"><table class=\"numbers\">\n<thead><tr>";
        for name in [table.corner].into_iter().chain(table.columns.iter().map(String::as_str)) {
            let _ = write!(self.0, "<th scope=\"col\">{}</th>", escape(name));
        }
        self.0 += "</tr></thead>\n<tbody>\n";
        for row in &table.rows {
            self.row(row);
        }
        self.0 += "</tbody>\n";
        if let Some(foot) = &table.foot {
            self.0 += "<tfoot>";
            self.row(foot);
            self.0 += "</tfoot>\n";
        }
        self.0 += "</table></div>\n";
    }

    fn row(&mut self, (name, cells): &(String, Vec<Cell>)) {
        let _ = write!(self.0, "<tr><th scope=\"row\">{}</th>", escape(name));
        for Cell { text, best } in cells {
            let _ = write!(self.0, "<td{}>{}</td>", if *best { " class=\"best\"" } else { "" }, escape(text));
        }
        self.0 += "</tr>\n";
    }

    pub(super) fn finish(self) -> String {
        self.0 + "</main>\n</body>\n</html>\n"
    }
}

/// A table of numbers.
pub(super) struct Numbers<'a> {
    /// What the names on the left are.
    pub(super) corner: &'a str,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<(String, Vec<Cell>)>,
    pub(super) foot: Option<(String, Vec<Cell>)>,
}

pub(super) struct Cell {
    pub(super) text: String,
    /// Of its row.
    pub(super) best: bool,
}

impl Cell {
    pub(super) fn plain(text: String) -> Cell {
        Cell { text, best: false }
    }
}
