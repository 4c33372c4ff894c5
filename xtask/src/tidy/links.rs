//! Relative links in Markdown pages lead somewhere.

use super::{File, Finding};

/// Links of Markdown files to paths that are not in `all_paths`.
pub(super) fn broken(files: &[File], all_paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let mut in_code = false;
        for (index, line) in file.text.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            if in_code {
                continue;
            }
            for target in targets(line) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains(':') {
                    continue; // A heading of the same page, or an address.
                }
                let found = resolve(&file.path, path).is_some_and(|path| path.is_empty() || all_paths.contains(&path));
                if !found {
                    findings.push(Finding::new(file, index + 1, format!("the link to `{path}` leads nowhere")));
                }
            }
        }
    }
    findings
}

/// What follows `](`, `src="` and `href="` in a line, and what `[name]: ` at its start defines; code between backticks
/// is passed over.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for text in line.split('`').step_by(2) {
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in text.match_indices(open) {
                let rest = &text[at + open.len()..];
                found.extend(rest.split([close, ' ']).next());
            }
        }
    }
    // A link whose text is code: `[`a`](b)` is cut at its backticks, and found in the piece after them.
    if let Some((_, target)) = line.split_once("]: ").filter(|(name, _)| name.starts_with('[')) {
        found.push(target.trim());
    }
    found
}

/// `target` as seen from the page `from`, relative to the root; none if it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::{file, places};
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let paths = ["README.md", "docs", "docs/a.md", "docs/a.svg"].map(String::from);
        let page = "[a](docs/a.md) [b](docs/b.md)\n![picture](docs/a.svg)\n[`code`](gone.rs)\n[`docs`](docs/)\n\
                    <img src=\"gone.svg\">\n[x]: docs/x.md\n[out](../out.md)\n";
        let found = places(broken(&[file("README.md", page)], &paths));
        assert_eq!(found, ["README.md:1", "README.md:3", "README.md:5", "README.md:6", "README.md:7"]);
    }

    #[test]
    fn addresses_headings_and_code_are_no_paths() {
        let page = "[a](https://example.org/a) [b](#part)\n`[c](d)`\n```\n[e](f)\n```\n[g](README.md#part)\n";
        assert_eq!(broken(&[file("README.md", page)], &["README.md".to_owned()]), []);
    }

    #[test]
    fn links_are_seen_from_their_page() {
        assert_eq!(resolve("docs/a/b.md", "../c.md").as_deref(), Some("docs/c.md"));
        assert_eq!(resolve("README.md", "./docs/").as_deref(), Some("docs"));
        assert_eq!(resolve("README.md", "../x"), None);
    }
}
