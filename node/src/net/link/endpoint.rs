//! Opens links: listens and dials, does the handshakes, and finds who serves a manifest.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::wire::{self, Hello, Opening, Refusal, Site};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::sender::Sender;
use super::tls::{self, Secured, TlsConfigs, TlsSetupError};
use super::{Incoming, LinkError, Open, Outgoing, Role, Timing, plain};
use crate::net::congestion::leave_paced;
use crate::net::identity::Identity;
use crate::net::neighbours::is_neighbour;
use crate::secret::{Prover, Secret};

/// How long a TCP connection may take to come about: on one network, a lost packet or two.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long authentication and hellos may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Most incoming links that are being opened at once; more wait in the kernel's queue.
const OPENING_MAX: usize = 128;
/// Most of those from one remote IP address, so that one host cannot keep all others out. On
/// loopback, where one address is many peers, [`OPENING_MAX`] alone holds.
const OPENING_PER_IP_MAX: usize = 32;
/// How many connections wait in the kernel: 500 peers may start at once.
const BACKLOG: u32 = 1024;
/// Unsent bytes that the kernel takes on, at the most and at the least; in between, half a piece.
/// What the kernel has taken on can no longer be overtaken by a message or given to another peer:
/// in the virtual-time world of protocol/tests, with 10 hosts at 50 Mbit/s and pieces of 64 KiB,
/// less of it is better.
const UNSENT_MAX: u32 = 256 * 1024;
const UNSENT_MIN: u32 = 32 * 1024;

/// Where links for one manifest go.
#[derive(Clone)]
pub struct Route {
    /// Takes links that are open.
    pub opened: mpsc::Sender<Open>,
    /// What the hello says: whether every piece is here.
    pub complete: Arc<AtomicBool>,
    /// The length of the longest piece, in bytes.
    pub piece_len_max: u32,
}

/// The receiving half of a link that is being opened.
trait Receiver: Incoming + 'static {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
}

impl Receiver for BufReader<OwnedReadHalf> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().as_ref()
    }
}

impl Receiver for tls::Reader<OwnedReadHalf> {
    fn tcp(&self) -> &TcpStream {
        self.socket().as_ref()
    }
}

/// A link whose other end is known.
struct Known<R, W> {
    peer: PeerId,
    /// Stands for this connection.
    binding: [u8; 32],
    remote: SocketAddr,
    steps: Steps,
    read: R,
    write: W,
}

impl<R: Receiver, W: Outgoing + 'static> Known<R, W> {
    fn open(self, role: Role, neighbour: bool, hello: Hello) -> Open {
        let Self { peer, remote, steps, read, write, .. } = self;
        let timing = steps.timing();
        if neighbour {
            leave_paced(read.tcp());
        }
        let (read, write) = (Box::new(read), Box::new(write));
        Open { peer, remote, role, neighbour, hello, timing, read, write }
    }
}

impl Known<BufReader<OwnedReadHalf>, Sender> {
    /// A plaintext link.
    fn plain((peer, binding): (PeerId, [u8; 32]), remote: SocketAddr, steps: Steps, tcp: TcpStream) -> Self {
        let (read, write) = tcp.into_split();
        Self { peer, binding, remote, steps, read: BufReader::new(read), write: Sender::new(write) }
    }
}

impl Known<tls::Reader<OwnedReadHalf>, tls::Writer<Sender>> {
    fn secured(secured: Secured<OwnedReadHalf, Sender>, remote: SocketAddr, steps: Steps) -> Self {
        let Secured { peer, binding, read, write } = secured;
        Self { peer, binding, remote, steps, read, write }
    }
}

/// When the steps of opening a link were done.
struct Steps {
    began: Instant,
    connected: Instant,
    authenticated: Instant,
}

impl Steps {
    /// The other end is authenticated at this moment.
    fn authenticated(began: Instant, connected: Instant) -> Self {
        Self { began, connected, authenticated: Instant::now() }
    }

    /// The hellos are said at this moment.
    fn timing(&self) -> Timing {
        Timing {
            connect: self.connected - self.began,
            handshake: self.authenticated - self.connected,
            hello: self.authenticated.elapsed(),
        }
    }
}

/// The listening sockets failed.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Opens links in both directions, for any number of manifests.
pub struct Endpoint {
    identity: Identity,
    tls: Option<TlsConfigs>,
    site: Option<Site>,
    secret: Option<Secret>,
    port: u16,
    addrs: Vec<SocketAddr>,
    routes: Mutex<HashMap<ManifestId, Route>>,
    opening_by_ip: Mutex<HashMap<IpAddr, usize>>,
    // Who hears of links for what goes nowhere yet.
    wanted: OnceLock<mpsc::Sender<Wanted>>,
}

/// A link for a manifest that has no route.
pub struct Wanted {
    /// The manifest.
    pub manifest: ManifestId,
    /// Says that it has a route; dropped where it gets none.
    pub opened: oneshot::Sender<()>,
}

/// What an endpoint is made of.
pub struct EndpointConfig {
    /// Who this node is.
    pub identity: Identity,
    /// Where to listen; an unspecified address stands for all, IPv4 and IPv6.
    pub listen: IpAddr,
    /// The TCP port; 0 for any that is free.
    pub port: u16,
    /// TLS on every link; without it, plaintext on every link.
    pub encryption: bool,
    /// The label of the place where this node runs.
    pub site: Option<Site>,
    /// What the other ends of all links must have as well.
    pub secret: Option<Secret>,
}

impl Endpoint {
    /// Listens, and takes links from then on until the returned tasks are dropped.
    pub fn start(config: EndpointConfig) -> Result<(Arc<Self>, JoinSet<()>), EndpointError> {
        let listeners = bind(config.listen, config.port)?;
        let addrs: Vec<SocketAddr> =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let tls = if config.encryption { Some(TlsConfigs::new(config.identity.keypair())?) } else { None };
        let endpoint = Arc::new(Self {
            identity: config.identity,
            tls,
            site: config.site,
            secret: config.secret,
            port: addrs.first().map_or(0, SocketAddr::port),
            addrs,
            routes: Mutex::default(),
            opening_by_ip: Mutex::default(),
            wanted: OnceLock::new(),
        });
        let slots = Arc::new(Semaphore::new(OPENING_MAX));
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(endpoint.clone().accept(listener, slots.clone()));
        }
        Ok((endpoint, tasks))
    }

    /// The TCP port of links.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The addresses that are listened on.
    pub fn listen_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Who this node is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where this node runs.
    pub const fn site(&self) -> Option<&Site> {
        self.site.as_ref()
    }

    /// Links for `manifest` go to `route` from now on.
    pub fn serve(&self, manifest: ManifestId, route: Route) {
        self.routes().insert(manifest, route);
    }

    /// Links for `manifest` are refused from now on. Those that are open stay.
    pub fn forget(&self, manifest: ManifestId) {
        self.routes().remove(&manifest);
    }

    /// Tells of links for manifests without a route, from now on: they wait for an answer. Once.
    pub fn wanted(&self) -> mpsc::Receiver<Wanted> {
        let (sender, receiver) = mpsc::channel(OPENING_MAX);
        // A second receiver hears of nothing.
        let _ = self.wanted.set(sender);
        receiver
    }

    /// Where links for `manifest` go; what is at rest may have to be opened first.
    async fn route_of(&self, manifest: ManifestId) -> Option<Route> {
        if let Some(route) = self.routes().get(&manifest).cloned() {
            return Some(route);
        }
        let (opened, is_open) = oneshot::channel();
        self.wanted.get()?.send(Wanted { manifest, opened }).await.ok()?;
        is_open.await.ok()?;
        self.routes().get(&manifest).cloned()
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, HashMap<ManifestId, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- dialling ----

    /// Opens a link for `manifest` to whoever listens at `addr`.
    pub async fn dial(&self, addr: SocketAddr, manifest: ManifestId) -> Result<Open, LinkError> {
        match self.dial_with(addr, manifest, wire::PROTOCOL_VERSION).await {
            // A peer of an older version hangs up on what it does not know.
            Err(LinkError::HungUp) => self.dial_with(addr, manifest, wire::PROTOCOL_VERSION_MIN).await,
            result => result,
        }
    }

    async fn dial_with(
        &self,
        addr: SocketAddr,
        manifest: ManifestId,
        version: u8,
    ) -> Result<Open, LinkError> {
        let began = Instant::now();
        let connect = TcpStream::connect(addr);
        let tcp = tokio::time::timeout(CONNECT_MAX, connect).await.map_err(|_| LinkError::TimedOut)??;
        tokio::time::timeout(HANDSHAKE_MAX, self.open_dialled(tcp, addr, (manifest, version), began))
            .await
            .map_err(|_| LinkError::TimedOut)?
    }

    async fn open_dialled(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        asked: (ManifestId, u8),
        began: Instant,
    ) -> Result<Open, LinkError> {
        let connected = Instant::now();
        // Small messages leave at once.
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            let mut tcp = tcp;
            let peer = plain::handshake(&mut tcp, Role::Dialler, self.identity.keypair()).await?;
            let steps = Steps::authenticated(began, connected);
            return self.greet(Known::plain(peer, remote, steps, tcp), asked).await;
        };
        let (read, write) = tcp.into_split();
        let secured = tls.connect(remote.ip(), read, Sender::new(write)).await?;
        let steps = Steps::authenticated(began, connected);
        self.greet(Known::secured(secured, remote, steps), asked).await
    }

    /// The dialler's hello goes first.
    async fn greet<R, W>(
        &self,
        mut link: Known<R, W>,
        (manifest, version): (ManifestId, u8),
    ) -> Result<Open, LinkError>
    where
        R: Receiver,
        W: Outgoing + 'static,
    {
        let route = self.routes().get(&manifest).cloned().ok_or(LinkError::OtherManifest)?;
        if let Some(secret) = &self.secret {
            prove_to_listener(&mut link, secret).await?;
        }
        let neighbour = tune_for(link.read.tcp(), link.remote.ip(), &route)?;
        let complete = route.complete.load(Ordering::Relaxed);
        write_opening(&mut link.write, &self.hello(version, manifest, complete)).await?;
        let answer = read_opening(&mut link.read).await.map_err(|error| match error {
            LinkError::Io(error) if is_hang_up(&error) => LinkError::HungUp,
            error => error,
        })?;
        match answer {
            Opening::Refused(refusal) => Err(LinkError::Refused(refusal)),
            Opening::Proof(_) => Err(LinkError::NotDft),
            Opening::Hello(hello) if hello.manifest != manifest => Err(LinkError::OtherManifest),
            Opening::Hello(hello) if hello.version > version => Err(LinkError::NotDft),
            Opening::Hello(hello) => Ok(link.open(Role::Dialler, neighbour, hello)),
        }
    }

    fn hello(&self, version: u8, manifest: ManifestId, complete: bool) -> Opening {
        let (listen_port, site) = (self.port, self.site.clone());
        Opening::Hello(Hello { version, manifest, complete, listen_port, site })
    }

    // ---- listening ----

    async fn accept(self: Arc<Self>, listener: TcpListener, slots: Arc<Semaphore>) {
        let mut tasks = JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((tcp, remote)) => {
                    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                    if self.enter(remote.ip()) {
                        tasks.spawn(self.clone().take(tcp, remote, slot));
                    }
                }
                // Out of descriptors, most likely: others may be closed meanwhile.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn take(self: Arc<Self>, tcp: TcpStream, remote: SocketAddr, _slot: OwnedSemaphorePermit) {
        let opened = tokio::time::timeout(HANDSHAKE_MAX, self.open_accepted(tcp, remote)).await;
        self.leave(remote.ip());
        // A link that fails to open concerns nobody but its dialler.
        if let Ok(Ok((route, open))) = opened {
            let _ = route.opened.send(open).await;
        }
    }

    async fn open_accepted(
        &self,
        mut tcp: TcpStream,
        remote: SocketAddr,
    ) -> Result<(Route, Open), LinkError> {
        let accepted = Instant::now();
        // Small messages leave at once.
        tcp.set_nodelay(true)?;
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(LinkError::NotDft);
        }
        let plain_opening = first[0] == plain::MAGIC[0];
        match &self.tls {
            Some(_) if plain_opening => {
                tcp.write_all(&plain::REFUSAL).await?;
                end_politely(&mut tcp).await;
                Err(LinkError::Refused(Refusal::EncryptionRequired))
            }
            Some(tls) => {
                let (read, write) = tcp.into_split();
                let secured = tls.accept(read, Sender::new(write)).await?;
                let steps = Steps::authenticated(accepted, accepted);
                self.welcome(Known::secured(secured, remote, steps)).await
            }
            None if plain_opening => {
                let peer = plain::handshake(&mut tcp, Role::Listener, self.identity.keypair()).await?;
                let steps = Steps::authenticated(accepted, accepted);
                self.welcome(Known::plain(peer, remote, steps, tcp)).await
            }
            None => {
                tcp.write_all(&plain::TLS_ALERT).await?;
                end_politely(&mut tcp).await;
                Err(LinkError::Refused(Refusal::EncryptionOff))
            }
        }
    }

    /// The listener answers the dialler's hello.
    async fn welcome<R, W>(&self, mut link: Known<R, W>) -> Result<(Route, Open), LinkError>
    where
        R: Receiver,
        W: Outgoing + 'static,
    {
        let mut opening = read_opening(&mut link.read).await?;
        let refusal = match (&self.secret, &opening) {
            (Some(secret), Opening::Proof(proof)) => {
                let proven = secret.is_proven(Prover::Dialler, &link.binding, proof);
                (!proven).then_some(Refusal::SecretWrong)
            }
            // Nothing that it asks for is looked at.
            (Some(_), _) => Some(Refusal::SecretRequired),
            (None, Opening::Proof(_)) => Some(Refusal::SecretUnknown),
            (None, _) => None,
        };
        if let Some(refusal) = refusal {
            return refuse(&mut link, refusal).await;
        }
        if let Some(secret) = &self.secret {
            let proof = Opening::Proof(secret.prove(Prover::Listener, &link.binding));
            write_opening(&mut link.write, &proof).await?;
            opening = read_opening(&mut link.read).await?;
        }
        let Opening::Hello(hello) = opening else {
            return Err(LinkError::NotDft);
        };
        let is_own = link.peer == self.identity.peer();
        let route = if is_own { None } else { self.route_of(hello.manifest).await };
        let refusal = match &route {
            _ if is_own => Some(Refusal::Oneself),
            None => Some(Refusal::UnknownManifest),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return refuse(&mut link, refusal).await;
        }
        let route = route.ok_or(LinkError::NotDft)?;
        let neighbour = tune_for(link.read.tcp(), link.remote.ip(), &route)?;
        let complete = route.complete.load(Ordering::Relaxed);
        write_opening(&mut link.write, &self.hello(hello.version, hello.manifest, complete)).await?;
        Ok((route, link.open(Role::Listener, neighbour, hello)))
    }

    /// Counts a connection that is being opened; false where its host has too many.
    fn enter(&self, ip: IpAddr) -> bool {
        let mut opening = self.opening_by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let count = opening.entry(ip).or_default();
        if *count >= OPENING_PER_IP_MAX && !ip.is_loopback() {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, ip: IpAddr) {
        let mut opening = self.opening_by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = opening.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                opening.remove(&ip);
            }
        }
    }
}

/// Sockets for `listen`; for the unspecified address one of each family, on one port.
fn bind(listen: IpAddr, port: u16) -> Result<Vec<TcpListener>, EndpointError> {
    if !listen.is_unspecified() {
        return Ok(vec![bind_one(SocketAddr::new(listen, port))?]);
    }
    let v4 = bind_one(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
    let port = v4.local_addr().map_or(port, |addr| addr.port());
    // A host without IPv6, or whose IPv6 port is taken by another, is served over IPv4.
    let v6 = bind_one(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).ok();
    Ok(std::iter::once(v4).chain(v6).collect())
}

fn bind_one(addr: SocketAddr) -> Result<TcpListener, EndpointError> {
    let bind = || {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            let socket = TcpSocket::new_v6()?;
            socket2::SockRef::from(&socket).set_only_v6(true)?;
            socket
        };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| EndpointError::Bind { addr, source })
}

/// The kernel holds little that could not be overtaken. Says whether `remote` is a neighbour.
fn tune_for(tcp: &TcpStream, remote: IpAddr, route: &Route) -> Result<bool, LinkError> {
    let unsent = (route.piece_len_max / 2).clamp(UNSENT_MIN, UNSENT_MAX);
    socket2::SockRef::from(tcp).set_tcp_notsent_lowat(unsent)?;
    Ok(is_neighbour(remote))
}

/// Ends a connection such that the other end can still read what was said last: closing with
/// unread input would reset it.
async fn end_politely(tcp: &mut TcpStream) {
    const DRAIN_LEN_MAX: usize = 16 * 1024;
    const DRAIN_MAX: Duration = Duration::from_secs(1);
    let _ = tcp.shutdown().await;
    let mut rest = [0; 1024];
    let drain = async {
        let mut drained = 0;
        while drained < DRAIN_LEN_MAX
            && let Ok(len) = tcp.read(&mut rest).await
            && len > 0
        {
            drained += len;
        }
    };
    let _ = tokio::time::timeout(DRAIN_MAX, drain).await;
}

/// The dialler proves that it has the secret, and lets the listener do the same.
async fn prove_to_listener<R, W>(link: &mut Known<R, W>, secret: &Secret) -> Result<(), LinkError>
where
    R: Receiver,
    W: Outgoing + 'static,
{
    let proof = Opening::Proof(secret.prove(Prover::Dialler, &link.binding));
    write_opening(&mut link.write, &proof).await?;
    match read_opening(&mut link.read).await? {
        Opening::Proof(proof) if secret.is_proven(Prover::Listener, &link.binding, &proof) => Ok(()),
        Opening::Proof(_) => Err(LinkError::Refused(Refusal::SecretWrong)),
        Opening::Refused(refusal) => Err(LinkError::Refused(refusal)),
        // It takes anybody: with the secret, this end speaks to those only who have it as well.
        Opening::Hello(_) => Err(LinkError::Refused(Refusal::SecretUnknown)),
    }
}

/// Says why, and ends the link.
async fn refuse<T, R, W>(link: &mut Known<R, W>, refusal: Refusal) -> Result<T, LinkError>
where
    W: Outgoing + 'static,
{
    write_opening(&mut link.write, &Opening::Refused(refusal)).await?;
    let _ = link.write.shutdown().await;
    Err(LinkError::Refused(refusal))
}

/// The other end closed the connection.
fn is_hang_up(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

async fn write_opening<W: AsyncWrite + Unpin>(write: &mut W, opening: &Opening) -> Result<(), LinkError> {
    write.write_all(&wire::frame(&opening.encode())).await?;
    write.flush().await?;
    Ok(())
}

async fn read_opening<R: AsyncRead + Unpin>(read: &mut R) -> Result<Opening, LinkError> {
    let len = read.read_u32().await?;
    let len = usize::try_from(len).ok().filter(|len| *len <= wire::HELLO_LEN_MAX).ok_or(LinkError::NotDft)?;
    let mut body = vec![0; len];
    read.read_exact(&mut body).await?;
    Ok(Opening::decode(&body)?)
}

#[cfg(test)]
mod tests;
