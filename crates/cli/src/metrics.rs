//! `--metrics`: `GET /metrics` and nothing else, for Prometheus.
//!
//! Read-only and bounded: so many connections at once, so many bytes of a request, so many seconds for both ways. Whoever asks too much is
//! closed; the run does not notice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fisherflow_dataflow::Meter;

use crate::exposition::{CONTENT_TYPE, exposition};

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// Bytes of a request's head.
const LONGEST: usize = 8 << 10;
/// Seconds that a request may take to come, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers at `address` until the process ends, and gives where: port 0 is any that is free.
///
/// # Errors
/// The address cannot be listened at.
pub fn serve(meter: &Arc<Meter>, address: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let (meter, open) = (Arc::clone(meter), Arc::new(AtomicUsize::new(0)));
    std::thread::Builder::new().name("metrics".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of file descriptors, for example: not to be asked again at once.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            answer_aside(stream, &meter, &open);
        }
    })?;
    tracing::info!(url = %format_args!("http://{address}/metrics"), "metrics");
    Ok(address)
}

/// Answers on a thread of its own, unless too many are at it.
fn answer_aside(mut stream: TcpStream, meter: &Arc<Meter>, open: &Arc<AtomicUsize>) {
    if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
        open.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let (meter, counted) = (Arc::clone(meter), Arc::clone(open));
    let answering = std::thread::Builder::new()
        .name("metrics-answer".into())
        .spawn(move || {
            let asked = Instant::now();
            if let Err(error) = answer(&mut stream, &meter) {
                tracing::debug!(%error, took = ?asked.elapsed(), "a request for metrics was not answered");
            }
            // Before it is closed: who sees that may ask again.
            counted.fetch_sub(1, Ordering::SeqCst);
            drop(stream);
        });
    if answering.is_err() {
        open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn answer(stream: &mut TcpStream, meter: &Meter) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = head(stream)?;
    let (status, kind, body) = response(&head, || exposition(meter));
    let allow = if status.starts_with("405") {
        "Allow: GET\r\n"
    } else {
        ""
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// Status, type and body for a request.
fn response(head: &str, metrics: impl FnOnce() -> String) -> (&'static str, &'static str, String) {
    let plain = |status: &'static str, said: &str| (status, "text/plain; charset=utf-8", said.to_owned());
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(path), Some(protocol)) if protocol.starts_with("HTTP/1.") => match path.split('?').next() {
            Some("/metrics") => ("200 OK", CONTENT_TYPE, metrics()),
            _ => plain("404 Not Found", "only /metrics is here\n"),
        },
        (Some(_), Some(_), Some(protocol)) if protocol.starts_with("HTTP/1.") => {
            plain("405 Method Not Allowed", "only GET is answered\n")
        }
        _ => plain("400 Bad Request", "no HTTP/1 request\n"),
    }
}

/// The head of a request, up to its empty line.
fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST {
            return Err(std::io::Error::new(
                ErrorKind::InvalidData,
                "a request too long or too slow",
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::Terminal;
    use crate::progress;

    fn asked(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn served() -> SocketAddr {
        let terminal = Terminal {
            tells: true,
            bars: None,
            format: crate::args::LogFormat::Text,
            run: crate::logging::RunOfLog::default(),
        };
        let meter = Meter::new(progress::display(&terminal));
        serve(&meter, "127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[test]
    fn only_metrics_are_answered() {
        let address = served();
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 405"),
            ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        ] {
            let answer = asked(address, request);
            assert!(answer.starts_with(status), "{request}: {answer}");
        }
        let metrics = asked(address, "GET /metrics HTTP/1.0\r\n\r\n");
        let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("version=0.0.4") && head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.contains("\nprocess_resident_memory_bytes "), "{body}");
    }

    #[test]
    fn a_long_request_and_idle_ones_do_no_harm() {
        let address = served();
        let idle: Vec<TcpStream> = (0..CONNECTIONS - 2)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let mut long = TcpStream::connect(address).unwrap();
        let written = long.write_all(&vec![b'x'; 1 << 20]);
        let mut rest = Vec::new();
        let read = long.read_to_end(&mut rest);
        assert!(rest.is_empty() && (written.is_err() || read.is_err() || read.is_ok_and(|n| n == 0)));
        let answers: Vec<String> = (0..4)
            .map(|_| asked(address, "GET /metrics HTTP/1.1\r\n\r\n"))
            .collect();
        assert!(
            answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")),
            "{answers:?}"
        );
        drop(idle);
    }
}
