//! TLS 1.3 on links: each end proves its PeerId by a certificate in libp2p's format.
//!
//! AES-128-GCM comes first: with AES instructions it costs 0.2 CPU s/GiB, ChaCha20-Poly1305 0.44.
//! Certificates are checked as the libp2p TLS specification says: self-signed, with the extension
//! that binds the identity key. Who may connect is decided by whoever opened the link, after the
//! handshake has told the PeerId.
//!
//! `TlsConfigs::connect` and `TlsConfigs::accept` make a `Secured` link of a connection:
//! `handshake` carries what rustls says, then `stream` moves bytes in sealed `record`s.
//!
//! Invariant: a PeerId exists only after every check, of the certificate and of the handshake's
//! signature: `Verifier` has both done in one place, and is made anew for each handshake.

mod handshake;
mod record;
mod stream;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use dft_protocol::id::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};

use self::handshake::Finished;
use self::record::{Opener, Sealer, Secrets};
use self::stream::Buffers;
pub(super) use self::stream::{Reader, Writer};
use super::{LinkError, Role};

/// The application protocol that both ends name.
const ALPN: &[u8] = b"dft/1";

/// What handshakes need in both roles, and what their links share. Made once per process.
pub struct TlsConfigs {
    provider: Arc<CryptoProvider>,
    certificate: Arc<OneCertificate>,
    buffers: Buffers,
}

/// Setting up TLS failed: a bug or a broken system, never a peer's doing.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// No certificate could be made.
    #[error("cannot make a TLS certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The TLS library refuses the configuration.
    #[error("cannot configure TLS: {0}")]
    Config(#[from] Error),
}

/// A connection whose other end has proved who it is, and which is encrypted from here on.
pub(super) struct Secured<R, W> {
    pub(super) peer: PeerId,
    /// Stands for this connection: both ends know it, and nobody else.
    pub(super) binding: [u8; 32],
    pub(super) read: Reader<R>,
    pub(super) write: Writer<W>,
}

impl TlsConfigs {
    /// Configurations that prove the identity of `keypair`.
    pub fn new(keypair: &Keypair) -> Result<Self, TlsSetupError> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        provider.kx_groups = vec![kx_group::X25519];
        let (chain, key) = certificate::generate(keypair)?;
        let key = provider.key_provider.load_private_key(key)?;
        let certificate = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![chain], key))));
        let configs = Self { provider: Arc::new(provider), certificate, buffers: Buffers::default() };
        // What is wrong with a configuration is wrong with all of them.
        configs.client(Arc::default())?;
        configs.server(Arc::default())?;
        Ok(configs)
    }

    /// Does the handshake of the end that dialled `addr`.
    pub(super) async fn connect<R, W>(
        &self,
        addr: IpAddr,
        mut read: R,
        mut write: W,
    ) -> Result<Secured<R, W>, LinkError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let verifier = Arc::<Verifier>::default();
        let config = self.client(verifier.clone()).map_err(LinkError::from_tls)?;
        let name = ServerName::IpAddress(addr.into());
        let connection = UnbufferedClientConnection::new(Arc::new(config), name);
        let connection = connection.map_err(LinkError::from_tls)?;
        let finished = handshake::complete(connection, &mut read, &mut write).await?;
        self.secure(&verifier, finished, Role::Dialler, read, write)
    }

    /// Does the handshake of the end that listened.
    pub(super) async fn accept<R, W>(&self, mut read: R, mut write: W) -> Result<Secured<R, W>, LinkError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let verifier = Arc::<Verifier>::default();
        let config = self.server(verifier.clone()).map_err(LinkError::from_tls)?;
        let connection = UnbufferedServerConnection::new(Arc::new(config)).map_err(LinkError::from_tls)?;
        let finished = handshake::complete(connection, &mut read, &mut write).await?;
        self.secure(&verifier, finished, Role::Listener, read, write)
    }

    fn secure<R, W>(
        &self,
        verifier: &Verifier,
        finished: Finished,
        role: Role,
        read: R,
        write: W,
    ) -> Result<Secured<R, W>, LinkError> {
        let peer = *verifier.peer.get().ok_or(LinkError::Unauthenticated)?;
        let Finished { secrets, next, early } = finished;
        let (dialler, listener) = match role {
            Role::Dialler => (&secrets.tx, &secrets.rx),
            Role::Listener => (&secrets.rx, &secrets.tx),
        };
        let binding = record::binding(&dialler.1, &listener.1).map_err(|_| LinkError::Unauthenticated)?;
        let next = Secrets::new(next);
        let keys = |_| LinkError::Unauthenticated;
        let opener = Opener::new(&secrets.rx, next.clone()).map_err(keys)?;
        let sealer = Sealer::new(&secrets.tx, next).map_err(keys)?;
        let (read, write) = stream::halves((read, opener), (write, sealer), early, &self.buffers);
        Ok(Secured { peer, binding, read, write })
    }

    fn client(&self, verifier: Arc<Verifier>) -> Result<ClientConfig, Error> {
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.certificate.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;
        client.enable_secret_extraction = true;
        Ok(client)
    }

    fn server(&self, verifier: Arc<Verifier>) -> Result<ServerConfig, Error> {
        let mut server = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.certificate.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        Ok(server)
    }
}

/// Presents the same certificate to everybody. (rustls' own way of setting a certificate refuses
/// the critical extension of libp2p.)
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Accepts every certificate that is valid by the libp2p TLS specification, for one handshake.
///
/// TLS asks twice, about the certificate and about the signature made with its key. Both answers
/// need the certificate parsed, which checks two signatures of its own; so all is done when the
/// second question comes, and only then is there a peer.
#[derive(Default, Debug)]
struct Verifier {
    /// Who the other end has proved to be.
    peer: OnceLock<PeerId>,
}

impl Verifier {
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = certificate::parse(certificate)
            .map_err(|_| Error::from(CertificateError::ApplicationVerificationFailure))?;
        parsed
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::from(CertificateError::BadSignature))?;
        let peer = PeerId::from_bytes(&parsed.peer_id().to_bytes());
        let peer = peer.ok_or(CertificateError::ApplicationVerificationFailure)?;
        if *self.peer.get_or_init(|| peer) != peer {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

/// There is one certificate. What is in it is checked with the signature that its key made.
fn check_chain(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.is_empty() { Ok(()) } else { Err(CertificateError::BadEncoding.into()) }
}

fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("links use TLS 1.3 only".into()))
}

fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ED25519,
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ]
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_chain(intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_chain(intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[cfg(test)]
mod tests;
