package wasim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"

	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waCert"
	"go.mau.fi/whatsmeow/util/keys"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/signallog"
)

// authority signs what clients check: TLS certificates, and the Noise
// certificate chain. There is one per process, because whatsmeow keeps the
// Noise root in a package variable that all its clients share.
type authority struct {
	noiseRoot *keys.KeyPair
	tlsKey    *ecdsa.PrivateKey
	tlsCert   *x509.Certificate
	leafKey   *ecdsa.PrivateKey

	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

// processAuthority makes the authority and overrides whatsmeow.WACertPubKey,
// once, when the first Service starts; importing this package changes nothing.
var processAuthority = sync.OnceValue(func() *authority {
	a, err := newAuthority()
	if err != nil {
		panic(fmt.Errorf("wasim: making the process's certificates: %w", err))
	}
	whatsmeow.WACertPubKey = *a.noiseRoot.Pub
	signallog.Silence()
	return a
})

// The certificates outlive any virtual clock: a synctest bubble begins in the
// year 2000, and tests may run for years of it.
var (
	certNotBefore = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	certNotAfter  = time.Date(2190, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newAuthority() (*authority, error) {
	a := &authority{noiseRoot: keys.NewKeyPair(), certs: make(map[string]*tls.Certificate)}
	var err error
	if a.tlsKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if a.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "wasim root"},
		NotBefore:             certNotBefore,
		NotAfter:              certNotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.tlsKey.Public(), a.tlsKey)
	if err != nil {
		return nil, err
	}
	a.tlsCert, err = x509.ParseCertificate(der)
	return a, err
}

// certificate is the process's certificate for a server name.
func (a *authority) certificate(serverName string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.certs[serverName]; c != nil {
		return c, nil
	}
	c, err := a.issue(serverName)
	if err == nil {
		a.certs[serverName] = c
	}
	return c, err
}

// issue makes a certificate for one server name. All share one key.
func (a *authority) issue(serverName string) (*tls.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: serverName},
		DNSNames:     []string{serverName},
		NotBefore:    certNotBefore,
		NotAfter:     certNotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.tlsCert, a.leafKey.Public(), a.tlsKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey, Leaf: leaf}, err
}

// pool has the root, and the certificate that almost every connection shows: a
// client need not check the signature of what it trusts itself.
func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.tlsCert)
	if c, err := a.certificate("web.whatsapp.com"); err == nil {
		p.AddCert(c.Leaf)
	}
	return p
}

// noiseChain is the marshalled certificate chain of a server whose static key
// is static: root (serial 0) signs the intermediate, which signs the leaf.
func (a *authority) noiseChain(static [32]byte) []byte {
	return signNoiseChain(a.noiseRoot, static, time.Unix(0, 0), certNotAfter)
}

func signNoiseChain(root *keys.KeyPair, static [32]byte, from, until time.Time) []byte {
	const intermediateSerial, leafSerial = 1, 2
	inter := keys.NewKeyPair()
	details := func(serial, issuer uint32, key []byte) []byte {
		return mustMarshal(&waCert.CertChain_NoiseCertificate_Details{
			Serial: proto.Uint32(serial), IssuerSerial: proto.Uint32(issuer), Key: key,
			NotBefore: proto.Uint64(uint64(from.Unix())), NotAfter: proto.Uint64(uint64(until.Unix())),
		})
	}
	sign := func(by *keys.KeyPair, b []byte) *waCert.CertChain_NoiseCertificate {
		sig := ecc.CalculateSignature(ecc.NewDjbECPrivateKey(*by.Priv), b)
		return &waCert.CertChain_NoiseCertificate{Details: b, Signature: sig[:]}
	}
	return mustMarshal(&waCert.CertChain{
		Intermediate: sign(root, details(intermediateSerial, whatsmeow.WACertIssuerSerial, inter.Pub[:])),
		Leaf:         sign(inter, details(leafSerial, intermediateSerial, static[:])),
	})
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Errorf("wasim: marshalling %T: %w", m, err))
	}
	return b
}
