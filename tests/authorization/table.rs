//! The table, read line by line.

use std::fmt;

use hyper::Method;

/// A line of the table.
#[derive(Debug)]
pub(super) struct Case {
    /// From 1.
    line: usize,
    pub(super) heading: &'static str,
    pub(super) who: &'static str,
    /// Method, path and form.
    pub(super) request: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) form: Option<&'static str>,
    answer: &'static str,
    pub(super) status: u16,
    /// The code in the body, or nothing.
    pub(super) code: &'static str,
    /// What headers or body hold.
    pub(super) said: &'static str,
}

/// All lines that are cases, in their order.
pub(super) fn cases() -> Vec<Case> {
    let (mut heading, mut cases) = ("", Vec::new());
    for (line, text) in (1..).zip(include_str!("table.txt").lines()) {
        if let Some(text) = text.strip_prefix("== ") {
            heading = text;
        } else if !text.is_empty() && !text.starts_with('#') {
            let case = Case::read(line, heading, text);
            cases.push(case.unwrap_or_else(|| panic!("line {line} cannot be read: {text}")));
        }
    }
    cases
}

impl Case {
    fn read(line: usize, heading: &'static str, text: &'static str) -> Option<Self> {
        let parts: Vec<_> = text.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect();
        let &[who, request, answer] = &*parts else { return None };
        let (method, target) = request.split_once(' ')?;
        let (path, form) = match target.split_once(" < ") {
            Some((path, form)) => (path, Some(form)),
            None => (target, None),
        };
        let (status, told) = answer.split_once(' ').unwrap_or((answer, ""));
        let (first, rest) = told.split_once(' ').unwrap_or((told, ""));
        let is_code = first.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let (code, said) = if is_code { (first, rest) } else { ("", told) };
        let (method, status) = (method.parse().ok()?, status.parse().ok()?);
        Some(Self { line, heading, who, request, method, path, form, answer, status, code, said })
    }

    /// The repository that the path names.
    pub(super) fn repository(&self) -> Option<&'static str> {
        let rest = self.path.strip_prefix("/v2/")?;
        let kinds = ["/tags/", "/manifests/", "/blobs/", "/referrers/", "/_oci/"];
        kinds.iter().find_map(|kind| rest.find(kind)).map(|end| &rest[..end])
    }

    /// The tag that the path names, if it is one.
    pub(super) fn tag(&self) -> Option<&'static str> {
        self.path.rsplit('/').next().filter(|_| !self.path.contains('{'))
    }

    /// Where it is asked from: a source that fails often is not heard for a while, so each line has its own.
    pub(super) fn source(&self) -> String {
        format!("10.0.{}.{}", self.line / 256, self.line % 256)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}  {}  {}", self.line, self.who, self.request, self.answer)
    }
}
