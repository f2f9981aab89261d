//! The README's table of keys is the table of keys.

use super::super::keys::{DefaultValue, KEYS};

#[test]
fn the_readme_lists_every_key_with_its_default() {
    let readme = include_str!("../../../README.md");
    let mut rest = readme;
    for key in KEYS {
        let default = match key.default {
            DefaultValue::Literal(text) => format!("`{text}`"),
            DefaultValue::Described(words) => words.to_owned(),
        };
        let row = format!("\n| `{}` | {default} | {} |\n", key.key, key.doc);
        let at = rest
            .find(&row)
            .unwrap_or_else(|| panic!("README.md lacks, at its place: {row}"));
        rest = &rest[at + row.len() - 1..];
    }
}
