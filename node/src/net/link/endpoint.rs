//! Opens links: listens and dials, does the handshakes, and finds who serves a manifest.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dft_protocol::id::{ManifestId, PeerId};
use dft_protocol::wire::{self, Hello, Opening, Refusal, Site};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::tls::{self, Secured, TlsConfigs, TlsSetupError};
use super::{Incoming, LinkError, Open, Role, Timing, plain};
use crate::net::identity::Identity;
use crate::net::neighbours::{is_neighbour, suit_congestion_control};

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
    remote: SocketAddr,
    steps: Steps,
    read: R,
    write: W,
}

impl<R: Receiver, W: AsyncWrite + Send + Sync + Unpin + 'static> Known<R, W> {
    fn open(self, role: Role, neighbour: bool, hello: Hello) -> Open {
        let Self { peer, remote, steps, read, write } = self;
        let timing = steps.timing();
        let (read, write) = (Box::new(read), Box::new(write));
        Open { peer, remote, role, neighbour, hello, timing, read, write }
    }
}

impl Known<BufReader<OwnedReadHalf>, OwnedWriteHalf> {
    /// A plaintext link.
    fn plain(peer: PeerId, remote: SocketAddr, steps: Steps, tcp: TcpStream) -> Self {
        let (read, write) = tcp.into_split();
        Self { peer, remote, steps, read: BufReader::new(read), write }
    }
}

impl Known<tls::Reader<OwnedReadHalf>, tls::Writer<OwnedWriteHalf>> {
    fn secured(secured: Secured<OwnedReadHalf, OwnedWriteHalf>, remote: SocketAddr, steps: Steps) -> Self {
        let Secured { peer, read, write } = secured;
        Self { peer, remote, steps, read, write }
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
    port: u16,
    addrs: Vec<SocketAddr>,
    routes: Mutex<HashMap<ManifestId, Route>>,
    opening_by_ip: Mutex<HashMap<IpAddr, usize>>,
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
            port: addrs.first().map_or(0, SocketAddr::port),
            addrs,
            routes: Mutex::default(),
            opening_by_ip: Mutex::default(),
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

    fn routes(&self) -> std::sync::MutexGuard<'_, HashMap<ManifestId, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- dialling ----

    /// Opens a link for `manifest` to whoever listens at `addr`.
    pub async fn dial(&self, addr: SocketAddr, manifest: ManifestId) -> Result<Open, LinkError> {
        let began = Instant::now();
        let connect = TcpStream::connect(addr);
        let tcp = tokio::time::timeout(CONNECT_MAX, connect).await.map_err(|_| LinkError::TimedOut)??;
        tokio::time::timeout(HANDSHAKE_MAX, self.open_dialled(tcp, addr, manifest, began))
            .await
            .map_err(|_| LinkError::TimedOut)?
    }

    async fn open_dialled(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        manifest: ManifestId,
        began: Instant,
    ) -> Result<Open, LinkError> {
        let connected = Instant::now();
        // Small messages leave at once.
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            let mut tcp = tcp;
            let peer = plain::handshake(&mut tcp, Role::Dialler, self.identity.keypair()).await?;
            let steps = Steps::authenticated(began, connected);
            return self.greet(Known::plain(peer, remote, steps, tcp), manifest).await;
        };
        let (read, write) = tcp.into_split();
        let secured = tls.connect(remote.ip(), read, write).await?;
        let steps = Steps::authenticated(began, connected);
        self.greet(Known::secured(secured, remote, steps), manifest).await
    }

    /// The dialler's hello goes first.
    async fn greet<R, W>(&self, mut link: Known<R, W>, manifest: ManifestId) -> Result<Open, LinkError>
    where
        R: Receiver,
        W: AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let route = self.routes().get(&manifest).cloned().ok_or(LinkError::OtherManifest)?;
        let neighbour = tune_for(link.read.tcp(), link.remote.ip(), &route)?;
        let complete = route.complete.load(Ordering::Relaxed);
        write_opening(&mut link.write, &self.hello(manifest, complete)).await?;
        match read_opening(&mut link.read).await? {
            Opening::Refused(refusal) => Err(LinkError::Refused(refusal)),
            Opening::Hello(hello) if hello.manifest != manifest => Err(LinkError::OtherManifest),
            Opening::Hello(hello) => Ok(link.open(Role::Dialler, neighbour, hello)),
        }
    }

    fn hello(&self, manifest: ManifestId, complete: bool) -> Opening {
        Opening::Hello(Hello { manifest, complete, listen_port: self.port, site: self.site.clone() })
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
                let secured = tls.accept(read, write).await?;
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
        W: AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let Opening::Hello(hello) = read_opening(&mut link.read).await? else {
            return Err(LinkError::NotDft);
        };
        let route = self.routes().get(&hello.manifest).cloned();
        let refusal = match &route {
            _ if link.peer == self.identity.peer() => Some(Refusal::Oneself),
            None => Some(Refusal::UnknownManifest),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            write_opening(&mut link.write, &Opening::Refused(refusal)).await?;
            let _ = link.write.shutdown().await;
            return Err(LinkError::Refused(refusal));
        }
        let route = route.ok_or(LinkError::NotDft)?;
        let neighbour = tune_for(link.read.tcp(), link.remote.ip(), &route)?;
        let complete = route.complete.load(Ordering::Relaxed);
        write_opening(&mut link.write, &self.hello(hello.manifest, complete)).await?;
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
    let neighbour = is_neighbour(remote);
    if neighbour {
        suit_congestion_control(tcp);
    }
    Ok(neighbour)
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
