//! Signatures of JWTs with `ring`: the one provider of cryptography that all of this process's TLS has too.
//!
//! The crate `jsonwebtoken` leaves the arithmetic to a provider of the process. Ours only checks signatures: nothing here is ever signed
//! in this form, and a shared secret (HMAC) is no key of an issuer, so those algorithms do not exist.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as algorithms;
use ring::signature::{RsaParameters, UnparsedPublicKey, VerificationAlgorithm};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the provider that of the process. May be called any number of times.
pub(super) fn install() {
    // The second call is refused, and changes nothing.
    let _ = PROVIDER.install_default();
}

fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let check = match algorithm {
        Algorithm::RS256 => Check::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Check::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Check::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Check::Rsa(&algorithms::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Check::Rsa(&algorithms::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Check::Rsa(&algorithms::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Check::Plain(&algorithms::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Check::Plain(&algorithms::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Check::Plain(&algorithms::ED25519),
        // Shared secrets, and what a later version of the library may know.
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    if key.family() == AlgorithmFamily::Hmac || !key.family().algorithms().contains(algorithm) {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Public {
        algorithm: *algorithm,
        check,
        key: key.clone(),
    }))
}

/// How a signature is checked.
enum Check {
    Rsa(&'static RsaParameters),
    Plain(&'static dyn VerificationAlgorithm),
}

/// A public key with the algorithm it is used for.
struct Public {
    algorithm: Algorithm,
    check: Check,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match (&self.check, self.key.kind()) {
            (Check::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                algorithms::RsaPublicKeyComponents { n, e }.verify(parameters, message, given)
            }
            (Check::Plain(algorithm), DecodingKeyKind::SecretOrDer(bytes)) => {
                UnparsedPublicKey::new(*algorithm, bytes).verify(message, given)
            }
            _ => return Err(signature::Error::new()),
        };
        checked.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
