//! The order of names.

/// Orders names as people do: numbers in them by their size, so that layer 10 comes after layer 2.
pub(super) fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit());
        let end = digits.map_or(rest.len(), |digits| text + digits);
        let number = rest[text..end].parse().unwrap_or(u64::MAX);
        parts.push((rest[..text].to_owned(), number));
        rest = &rest[end..];
    }
    parts
}

/// The numbers that are parts of a name: of layers, of experts, not the one of `fc1`.
pub(super) fn numbers(name: &str) -> Vec<u64> {
    let parts = name.split(['.', '/', '_']);
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_in_order() {
        let mut names = ["h.10.x", "h.2.y", "h.2.x", "a", "h.2"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a", "h.2", "h.2.x", "h.2.y", "h.10.x"]);
        assert_eq!(numbers("layers.12.experts.3.fc1"), [12, 3]);
    }
}
