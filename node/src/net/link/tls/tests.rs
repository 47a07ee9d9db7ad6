//! Handshakes, with ends that are not what they should be.

use libp2p::identity::Keypair;
use rustls::crypto::KeyProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

use super::*;
use crate::net::identity::peer_of;
use crate::net::link::plain;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime can be made").block_on(future)
}

fn configs() -> TlsConfigs {
    TlsConfigs::new(&Keypair::generate_ed25519()).expect("TLS can be set up")
}

/// What the dialling and the listening end make of each other.
fn outcome(dialler: &TlsConfigs, listener: &TlsConfigs) -> [Result<PeerId, LinkError>; 2] {
    block_on(async {
        let (near, far) = duplex(100);
        let dial = async {
            let (read, write) = split(near);
            dialler.connect([127, 0, 0, 1].into(), read, write).await
        };
        let listen = async {
            let (read, write) = split(far);
            let mut secured = listener.accept(read, write).await?;
            // In TLS 1.3 a dialler is done before it is known whether the listener takes it.
            let _ = secured.write.shutdown().await;
            Ok::<_, LinkError>(secured)
        };
        let (dialled, accepted) = tokio::join!(
            async {
                let mut secured = dial.await?;
                let _ = secured.read.read(&mut [0]).await?;
                Ok(secured.peer)
            },
            async { listen.await.map(|secured| secured.peer) }
        );
        [dialled, accepted]
    })
}

#[test]
fn each_end_learns_who_the_other_is() {
    let (near, far) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let make = |keypair| TlsConfigs::new(keypair).expect("TLS can be set up");
    let [dialled, accepted] = outcome(&make(&near), &make(&far));
    assert_eq!(dialled.expect("it connects"), peer_of(&far.public()));
    assert_eq!(accepted.expect("it accepts"), peer_of(&near.public()));
}

/// Presents `chain` with the key of a certificate of its own.
fn impostor(chain: Vec<CertificateDer<'static>>) -> TlsConfigs {
    let mut configs = configs();
    let (_, key) = certificate::generate(&Keypair::generate_ed25519()).expect("one can be made");
    let provider: &dyn KeyProvider = configs.provider.key_provider;
    let key = provider.load_private_key(key).expect("it is valid");
    configs.certificate = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(chain, key))));
    configs
}

#[test]
fn stolen_damaged_and_chained_certificates_prove_nothing() {
    let victim = configs().certificate.0.cert[0].clone();
    let mut damaged = victim.as_ref().to_vec();
    *damaged.last_mut().expect("a certificate is not empty") ^= 1;
    let chains = [
        vec![victim.clone()],
        vec![damaged.into()],
        vec![victim.clone(), victim],
        vec![b"no certificate".to_vec().into()],
    ];
    for chain in chains {
        let [dialled, _] = outcome(&configs(), &impostor(chain.clone()));
        assert!(matches!(dialled, Err(LinkError::Unauthenticated)), "{dialled:?}");
        let [dialled, accepted] = outcome(&impostor(chain), &configs());
        assert!(matches!(accepted, Err(LinkError::Unauthenticated)), "{accepted:?}");
        assert!(dialled.is_err(), "the impostor hears of it");
    }
}

/// What a dialler makes of one who answers like this and then hangs up.
fn answered_with(answer: &[u8]) -> LinkError {
    block_on(async {
        let (near, mut far) = duplex(1 << 16);
        let (read, write) = split(near);
        far.write_all(answer).await.expect("there is room");
        far.shutdown().await.expect("it is open");
        configs().connect([127, 0, 0, 1].into(), read, write).await.err().expect("it fails")
    })
}

#[test]
fn who_does_not_speak_tls_is_not_dft() {
    let long = [&[22, 3, 3, 255, 255][..], &[0; 40_000]].concat();
    for answer in [&b""[..], b"\x16\x03", b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0; 3000], &[0xff; 7], &long]
    {
        let error = answered_with(answer);
        assert!(matches!(error, LinkError::NotDft), "{error:?}");
    }
    let error = answered_with(&plain::TLS_ALERT);
    assert!(matches!(error, LinkError::Refused(dft_protocol::wire::Refusal::EncryptionOff)), "{error:?}");
}

#[test]
fn listener_tells_a_dialler_that_talks_nonsense() {
    block_on(async {
        let (near, mut far) = duplex(1 << 16);
        let (read, write) = split(near);
        far.write_all(&[22, 3, 1, 0, 4, 9, 0, 0, 0]).await.expect("there is room");
        let error = configs().accept(read, write).await.err().expect("it fails");
        assert!(matches!(error, LinkError::Tls(_) | LinkError::NotDft), "{error:?}");
        let mut alert = [0; 7];
        far.read_exact(&mut alert).await.expect("an alert comes");
        assert_eq!(alert[0], 21);
    });
}
