//! HTTP/1.1 messages, as far as clients and servers of S3 send them: a head, and a body of a stated length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A request or an answer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// `GET /bucket/key?query HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub start: String,
    /// Names as they were sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The next request of a connection; `None` where it ended.
    pub fn request(from: &mut BufReader<TcpStream>) -> std::io::Result<Option<Self>> {
        let Some(mut message) = Self::head(from)? else {
            return Ok(None);
        };
        let length = message.length().unwrap_or(0);
        message.body.resize(length, 0);
        from.read_exact(&mut message.body)?;
        Ok(Some(message))
    }

    /// What a server answers to a request whose connection it then closes.
    pub fn answer(from: TcpStream, to_head: bool) -> std::io::Result<Self> {
        let mut from = BufReader::new(from);
        let mut message = Self::head(&mut from)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        if !to_head {
            from.read_to_end(&mut message.body)?;
        }
        Ok(message)
    }

    /// An error as S3 words it.
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>said by the faulty proxy</Message></Error>"
        );
        Self {
            start: format!("HTTP/1.1 {status} {code}"),
            headers: vec![
                ("Content-Type".to_owned(), "application/xml".to_owned()),
                ("Content-Length".to_owned(), body.len().to_string()),
            ],
            body: body.into_bytes(),
        }
    }

    fn head(from: &mut BufReader<TcpStream>) -> std::io::Result<Option<Self>> {
        let mut start = String::new();
        if from.read_line(&mut start)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None => break,
            }
        }
        Ok(Some(Self {
            start: start.trim_end().to_owned(),
            headers,
            body: Vec::new(),
        }))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub fn send(&self, to: &mut TcpStream) -> std::io::Result<()> {
        to.write_all(&self.head_bytes())?;
        to.write_all(&self.body)
    }

    /// Of an answer.
    pub fn status(&self) -> u16 {
        let status = self.start.split(' ').nth(1);
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }
}
