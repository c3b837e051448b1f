package wasim

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
)

// Transport returns a fresh transport whose every dial goes to the service,
// whatever host is asked for, and which trusts its certificates. Give it to
// stability.WithTransport, or to a client's SetWebsocketHTTPClient,
// SetPreLoginHTTPClient and SetMediaHTTPClient. from is an optional label for
// the dialing side ("instance-a"): faults and counters can be told apart by it.
func (s *Service) Transport(from ...string) *http.Transport {
	label := ""
	if len(from) > 0 {
		label = from[0]
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return s.dial(ctx, label, addr)
		},
		TLSClientConfig:   &tls.Config{RootCAs: s.auth.pool(), MinVersion: tls.VersionTLS13, CurvePreferences: cheapCurve},
		DisableKeepAlives: true,
	}
}

func refused(addr string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: memAddr(addr),
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

func (s *Service) dial(ctx context.Context, label, addr string) (net.Conn, error) {
	s.mu.Lock()
	n := s.seen.dial(label)
	f := s.take(stageDial, nil, label)
	closed, tcp := s.closed, s.tcp()
	s.mu.Unlock()
	if f != nil {
		if err := f.dial(ctx, s); err != nil {
			if err == errRefused {
				err = refused(addr)
			}
			return nil, err
		}
	}
	if closed {
		return nil, refused(addr)
	}
	if tcp != "" {
		return dialTCP(ctx, tcp, label, false)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, server := memPipe(memAddr(fmt.Sprintf("%s#%d", label, n)), memAddr(addr))
	if !s.spawn(func() { s.serve(server, label, false) }) {
		return nil, refused(addr)
	}
	return client, nil
}

// spawn starts a goroutine that Close waits for; false when closed.
func (s *Service) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// cheapCurve keeps TLS from what costs most of a handshake, keys that outlast
// quantum computers: tests make tens of thousands of connections.
var cheapCurve = []tls.CurveID{tls.CurveP256}

func (s *Service) tlsConfig(wrong bool) *tls.Config {
	return &tls.Config{
		NextProtos: []string{"http/1.1"},
		MinVersion: tls.VersionTLS13,
		// no tickets: every connection is a full handshake, as after a restart
		SessionTicketsDisabled: true,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if wrong {
				other, err := newAuthority()
				if err != nil {
					return nil, err
				}
				return other.issue(h.ServerName)
			}
			return s.auth.certificate(h.ServerName)
		},
	}
}
