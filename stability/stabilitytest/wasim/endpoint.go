package wasim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"go.mau.fi/whatsmeow"
)

// Endpoint is what another process needs to reach a service that listens:
// pass it on as JSON, in an environment variable for example.
type Endpoint struct {
	Addr      string
	TLSRoot   []byte // DER
	NoiseRoot [32]byte
}

// Endpoint describes the service for other processes. It needs Listen.
func (s *Service) Endpoint() Endpoint {
	return Endpoint{Addr: s.Addr(), TLSRoot: s.auth.tlsCert.Raw, NoiseRoot: *s.auth.noiseRoot.Pub}
}

// Transport is Service.Transport for another process. It overrides
// whatsmeow.WACertPubKey, so call it before clients connect, and in a process
// that has no Service of its own. Refused dials and dials that hang reach
// other processes as connections that are reset or left alone.
func (e Endpoint) Transport(from string) (*http.Transport, error) {
	root, err := x509.ParseCertificate(e.TLSRoot)
	if err != nil {
		return nil, fmt.Errorf("wasim: endpoint: TLS root: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	whatsmeow.WACertPubKey = e.NoiseRoot
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialTCP(ctx, e.Addr, from, true)
		},
		TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, CurvePreferences: cheapCurve},
		DisableKeepAlives: true,
	}, nil
}

// A connection over TCP begins with a line that says who dials, since the
// service must know before TLS whom its faults are for. Others, whose first
// byte is that of a TLS record, are served too.
const (
	preamble  = "WASIM1 "
	tlsRecord = 0x16
)

func dialTCP(ctx context.Context, addr, label string, remote bool) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	where := "local "
	if remote {
		where = "remote "
	}
	if _, err = io.WriteString(c, preamble+where+strings.ReplaceAll(label, "\n", " ")+"\n"); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// readPreamble learns who dials. remote is true where this process's dial has
// not counted the attempt.
func (l *link) readPreamble() (label string, remote bool, err error) {
	b := make([]byte, 1)
	if _, err = io.ReadFull(l.Conn, b); err != nil {
		return "", false, err
	}
	if b[0] == tlsRecord {
		l.peeked = b
		return "", true, nil
	}
	line := []byte{b[0]}
	for b[0] != '\n' {
		if _, err = io.ReadFull(l.Conn, b); err != nil {
			return "", false, err
		}
		if line = append(line, b[0]); len(line) > 512 {
			return "", false, fmt.Errorf("no line of wasim's")
		}
	}
	rest, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), preamble)
	if !ok {
		return "", false, fmt.Errorf("no line of wasim's")
	}
	where, label, _ := strings.Cut(rest, " ")
	return label, where == "remote", nil
}
