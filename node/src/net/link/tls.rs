//! TLS 1.3 on links: each end proves its PeerId by a certificate in libp2p's format.
//!
//! AES-128-GCM comes first: with AES instructions it costs 0.1 CPU s/GiB, ChaCha20-Poly1305 0.44.
//! Certificates are checked as the libp2p TLS specification says: self-signed, with the extension
//! that binds the identity key. Who may connect is decided by whoever opened the link, after the
//! handshake has told the PeerId.

use std::sync::Arc;

use dft_protocol::id::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

/// The application protocol that both ends name.
const ALPN: &[u8] = b"dft/1";

/// What both roles of a TLS handshake need. Made once per process.
#[derive(Clone)]
pub struct TlsConfigs {
    /// For links that this node dials.
    pub client: Arc<ClientConfig>,
    /// For links that it takes.
    pub server: Arc<ServerConfig>,
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
        let provider = Arc::new(provider);
        let (chain, key) = certificate::generate(keypair)?;
        let key = provider.key_provider.load_private_key(key)?;
        let resolver = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![chain], key))));
        let verifier = Arc::new(Libp2pVerifier);

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(resolver.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Who is at the other end, by the certificates that it presented.
pub(super) fn peer_of_certificates(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerId> {
    let certificate = certificates?.first()?;
    let parsed = certificate::parse(certificate).ok()?;
    PeerId::from_bytes(&parsed.peer_id().to_bytes())
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

/// Accepts every certificate that is valid by the libp2p TLS specification.
#[derive(Debug)]
struct Libp2pVerifier;

fn check_chain(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if !intermediates.is_empty() {
        return Err(CertificateError::BadEncoding.into());
    }
    certificate::parse(end_entity)
        .map(drop)
        .map_err(|_| CertificateError::ApplicationVerificationFailure.into())
}

fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = certificate::parse(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    parsed
        .verify_signature(signed.scheme, message, signed.signature())
        .map_err(|_| Error::from(CertificateError::BadSignature))?;
    Ok(HandshakeSignatureValid::assertion())
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

impl ServerCertVerifier for Libp2pVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_chain(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
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
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Libp2pVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_chain(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
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
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
