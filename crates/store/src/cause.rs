//! What another library said of a failure, without secrets.

use std::fmt;

/// What another library said, as text from which every secret of the options is taken out.
#[derive(Clone, Debug)]
pub struct Cause(String);

impl Cause {
    /// The error and its sources in one line, secrets replaced.
    pub(crate) fn new(error: &(dyn std::error::Error + 'static), secrets: &[String]) -> Self {
        let mut text = with_causes(error);
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "***");
        }
        text = without_credentials(&text);
        Self(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Text of our own.
    pub(crate) fn said(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// An error and its causes, none said twice.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = error.source();
    }
    said
}

/// Elements of an S3 answer that repeat what a request was signed with (and so tokens that are in no option, of a file or a role).
const OF_CREDENTIALS: [&str; 5] = [
    "Token",
    "CanonicalRequest",
    "StringToSign",
    "SignatureProvided",
    "AWSAccessKeyId",
];

/// The text without what stands in such elements.
fn without_credentials(text: &str) -> String {
    let (mut without, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('<') {
        let element = &rest[at + 1..];
        let is_one = OF_CREDENTIALS.iter().any(|name| element.starts_with(name));
        match element.find('>').filter(|_| is_one) {
            Some(end) => {
                let content = &element[end + 1..];
                without.push_str(&rest[..=at + 1 + end]);
                without.push_str("***");
                rest = &content[content.find('<').unwrap_or(content.len())..];
            }
            None => {
                without.push_str(&rest[..=at]);
                rest = element;
            }
        }
    }
    without + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out() {
        let error = std::io::Error::other("signature of hunter2 refused");
        let cause = Cause::new(&error, &["hunter2".to_owned(), String::new()]);
        assert_eq!(cause.to_string(), "signature of *** refused");
        let body = "400: <Code>InvalidToken</Code><Token-0>FwoG+x/=</Token-0><CanonicalRequest>GET\nx-amz-security-token:FwoG\n\
                    </CanonicalRequest><HostId>a</HostId><StringToSign>cut";
        let said = Cause::new(&std::io::Error::other(body), &[]).to_string();
        let expected = "400: <Code>InvalidToken</Code><Token-0>***</Token-0><CanonicalRequest>***</CanonicalRequest><HostId>a</HostId>\
                        <StringToSign>***";
        assert_eq!(said, expected);
    }
}
