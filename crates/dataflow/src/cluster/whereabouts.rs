//! Where each process of the cluster is, and where this one listens.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, ToSocketAddrs};
use std::time::Duration;

use fisherflow_store::Rendezvous;

use crate::error::RunError;
use crate::job::{Cluster, Hosts};

/// How long a failed look at the meeting place keeps from the next.
const PAUSE: Duration = Duration::from_millis(500);

/// Finds the processes.
#[derive(Clone)]
pub(crate) struct Whereabouts {
    me: usize,
    hosts: Hosts,
    rendezvous: Rendezvous,
}

impl Whereabouts {
    pub(crate) fn new(cluster: &Cluster, rendezvous: Rendezvous) -> Self {
        Self {
            me: cluster.process,
            hosts: cluster.hosts.clone(),
            rendezvous,
        }
    }

    /// `host:port` of a process, as far as it is known.
    pub(crate) fn address(&self, process: usize) -> Result<Option<String>, String> {
        match &self.hosts {
            Hosts::Listed(addresses) => Ok(addresses.get(process).cloned()),
            Hosts::Rendezvous { .. } => self.rendezvous.address(process).map_err(|error| error.to_string()),
        }
    }

    /// How long to wait before asking for an address again.
    pub(crate) fn pause(&self) -> Duration {
        match self.hosts {
            Hosts::Listed(_) => Duration::from_millis(50),
            Hosts::Rendezvous { .. } => PAUSE,
        }
    }

    /// A process as an error names it.
    pub(crate) fn name(&self, process: usize) -> String {
        match &self.hosts {
            Hosts::Listed(addresses) => match addresses.get(process) {
                Some(address) => format!("{process} at {address}"),
                None => process.to_string(),
            },
            Hosts::Rendezvous { .. } => process.to_string(),
        }
    }

    /// Whether every process that could be told of is on this machine.
    pub(crate) fn stay_here(&self) -> bool {
        match &self.hosts {
            Hosts::Listed(addresses) => addresses.iter().all(|address| stays_here(address)),
            Hosts::Rendezvous { host, .. } => stays_here(&format!("{host}:0")),
        }
    }

    /// Listens where the other processes will dial, on the loopback alone where that is what the address says; also gives the address to
    /// announce.
    ///
    /// # Errors
    /// [`RunError::PortTaken`] where another process listens there, [`RunError::Usage`] where the address is none.
    pub(crate) fn listen(&self) -> Result<(TcpListener, String), RunError> {
        let (host, port) = match &self.hosts {
            Hosts::Rendezvous { host, port } => (host.clone(), *port),
            Hosts::Listed(addresses) => addresses
                .get(self.me)
                .and_then(|address| address.rsplit_once(':'))
                .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
                .ok_or_else(|| RunError::Usage(format!("process {} has no address of the form host:port", self.me)))?,
        };
        let refused = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AddrInUse => RunError::PortTaken(format!("{host}:{port}")),
            _ => RunError::Usage(format!("cannot listen at {host}:{port}: {error}")),
        };
        let ip = if stays_here(&format!("{host}:{port}")) {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        let listener = TcpListener::bind(SocketAddrV4::new(ip, port)).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?.port();
        Ok((listener, format!("{host}:{bound}")))
    }

    /// Whether there is a list, and nothing to announce.
    pub(crate) fn are_listed(&self) -> bool {
        matches!(self.hosts, Hosts::Listed(_))
    }

    /// Leaves this process's address where the others look for it.
    pub(crate) fn announce(&self, address: &str) -> Result<(), String> {
        self.rendezvous
            .announce(self.me, address)
            .map_err(|error| error.to_string())
    }

    /// Takes the address back, once nobody needs it.
    pub(crate) fn leave(&self) {
        if let Err(error) = self.rendezvous.leave(self.me) {
            tracing::warn!(%error, "this process's address stays in the output; it does no harm");
        }
    }
}

fn stays_here(address: &str) -> bool {
    address
        .to_socket_addrs()
        .is_ok_and(|mut found| found.all(|a| a.ip().is_loopback()))
}
