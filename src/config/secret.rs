//! Secrets, given in the configuration itself or in files of their own.

use super::reader::SectionReader;
use secrecy::SecretString;
use std::io::Read;
use std::path::Path;

/// A larger file is not a secret but a wrong path.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Reads a secret that its section requires: the value of `name`, or the content of the file that
/// `name`_file names. Errors never contain the secret.
pub(super) fn read_required(section: &SectionReader<'_>, name: &str) -> Option<SecretString> {
    let file_key = format!("{name}_file");
    let (key, secret) = match (section.is_set(name), section.is_set(&file_key)) {
        (true, true) => {
            section.report_error(
                &file_key,
                format!("{name} is set too; remove one of the two"),
            );
            return None;
        }
        (false, false) => {
            section.report_missing(name, format!("missing; set {name} or {file_key}"));
            return None;
        }
        (true, false) => (name, Ok(section.text(name)?)),
        (false, true) => {
            let path = section.text(&file_key)?;
            (file_key.as_str(), read_file(Path::new(&path)))
        }
    };
    let checked = secret.and_then(|secret| check_header_text(&secret).map(|()| secret));
    section.ok_or_report(key, checked).map(SecretString::from)
}

/// Reads the content of a secret's file, without the line ends at its end. Errors contain the path,
/// never the content.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    let path_text = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{path_text} cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!(
            "{path_text} is larger than a secret may be (64KiB)"
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{path_text} is not UTF-8"))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(format!("{path_text} is empty"));
    }
    Ok(secret.to_owned())
}

/// Checks that an HTTP header can carry a secret. HTTP strips white space around the value of a
/// header, and non-ASCII characters have no agreed encoding there.
pub(crate) fn check_header_text(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty; use at least one visible ASCII character".to_owned());
    }
    if text.trim() != text || !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(
            "contains other characters than visible ASCII characters and spaces between \
                    them; remove them"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn only_line_ends_at_the_end_are_removed() {
        for (content, secret) in [
            ("s", "s"),
            ("s\n", "s"),
            ("s\r\n\n", "s"),
            (" s \n", " s "),
            ("a\nb\n", "a\nb"),
        ] {
            assert_eq!(read_file(file(content.as_bytes()).path()).unwrap(), secret);
        }
    }

    #[test]
    fn an_invalid_file_is_named_but_not_quoted() {
        let large = vec![b'x'; MAX_SECRET_BYTES as usize + 1];
        for (content, problem) in [
            (&b"\n"[..], "is empty"),
            (b"\xffs3cret", "is not UTF-8"),
            (&large, "larger than"),
        ] {
            let file = file(content);
            let message = read_file(file.path()).unwrap_err();
            assert!(
                message.contains(problem) && message.contains(&file.path().display().to_string()),
                "{message}"
            );
            assert!(!message.contains("s3cret") && !message.contains("xxxx"));
        }
        assert_eq!(
            read_file(file(&large[1..]).path()).unwrap().len(),
            MAX_SECRET_BYTES as usize
        );
        assert!(
            read_file(Path::new("/nowhere/secret"))
                .unwrap_err()
                .starts_with("/nowhere/secret cannot be read")
        );
        assert!(
            read_file(Path::new("/"))
                .unwrap_err()
                .starts_with("/ cannot be read")
        );
    }

    #[test]
    fn header_texts() {
        for good in ["a", "a b", "~!@#", "Bearer abc=="] {
            assert_eq!(check_header_text(good), Ok(()));
        }
        for bad in ["", " a", "a ", "a\tb", "a\nb", "é", "\u{7f}"] {
            assert!(check_header_text(bad).is_err(), "{bad:?}");
        }
    }
}
