//! Where each process of the cluster is, and where this one listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, ToSocketAddrs};
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

    /// Whether every process that could be told of is on this machine. A machine's own name may lead to its loopback there and to its network
    /// elsewhere (`127.0.1.1` in Debian's `/etc/hosts`): alone it tells nothing.
    pub(crate) fn stay_here(&self) -> bool {
        match &self.hosts {
            Hosts::Listed(addresses) => addresses.iter().all(|address| loopback(address).is_some()),
            Hosts::Rendezvous { host, .. } => {
                let is_name = host.parse::<Ipv4Addr>().is_err() && host != "localhost";
                !is_name && loopback(&format!("{host}:0")).is_some()
            }
        }
    }

    /// Listens where the other processes will dial, on the loopback alone where all of them [are here](Self::stay_here); also gives the address to
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
        let here = self.stay_here().then(|| loopback(&format!("{host}:{port}")));
        let ip = here.flatten().unwrap_or(Ipv4Addr::UNSPECIFIED);
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

/// Where an address leads that no other machine can reach; `None` where it leads elsewhere, or nowhere.
fn loopback(address: &str) -> Option<Ipv4Addr> {
    let found: Vec<_> = address.to_socket_addrs().ok()?.map(|found| found.ip()).collect();
    let first = found.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    first
        .or(Some(Ipv4Addr::LOCALHOST))
        .filter(|_| found.iter().all(IpAddr::is_loopback))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn listed(addresses: &[&str]) -> Hosts {
        Hosts::Listed(addresses.iter().map(|&address| address.to_owned()).collect())
    }

    fn of(hosts: Hosts) -> Whereabouts {
        let folder = tempfile::tempdir().unwrap();
        let stores = fisherflow_store::Stores::new(fisherflow_store::StoreOptions::default(), 1).unwrap();
        let output = fisherflow_store::Output::open(&stores, folder.path().to_str().unwrap()).unwrap();
        let rendezvous = output.rendezvous("r");
        Whereabouts {
            me: 0,
            hosts,
            rendezvous,
        }
    }

    /// As Debian has a machine's own name.
    #[test]
    fn a_machine_is_heard_by_the_others_whatever_its_own_name_leads_to_there() {
        let all_here = of(listed(&["127.0.1.1:0", "localhost:0"]));
        assert!(all_here.stay_here());
        let (listener, address) = all_here.listen().unwrap();
        assert!(address.starts_with("127.0.1.1:"));
        TcpStream::connect(&address).unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());

        // Another is elsewhere: 192.0.2.1 is nobody's (RFC 5737).
        let with_others = of(listed(&["127.0.1.1:0", "192.0.2.1:9"]));
        assert!(!with_others.stay_here());
        assert!(
            with_others
                .listen()
                .unwrap()
                .0
                .local_addr()
                .unwrap()
                .ip()
                .is_unspecified()
        );
    }

    #[test]
    fn where_processes_are_is_not_told_by_a_name() {
        for (host, stays) in [("localhost", true), ("127.0.0.1", true), ("localhost.", false)] {
            let hosts = Hosts::Rendezvous {
                host: host.to_owned(),
                port: 0,
            };
            assert_eq!(of(hosts).stay_here(), stays, "{host}");
        }
    }
}
