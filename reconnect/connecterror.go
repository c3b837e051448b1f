package reconnect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/socket"

	"github.com/wastability/wastability/lock"
)

// classifyError maps what Connect returned, or what else the host met while
// connecting.
func classifyError(err error) (c Cause, ends bool) {
	defer survive(&c, &ends, err)
	if errors.Is(err, whatsmeow.ErrAlreadyConnected) {
		// The attempt was superfluous; the connection is up.
		return Cause{}, false
	}
	if c, ok := ownError(err); ok {
		return c, true
	}
	if _, ok := errors.AsType[*whatsmeow.PairDatabaseError](err); ok {
		c, ends = pairError(err)
		c.Source = SourceError
		return c, ends
	}
	c = connectError(err)
	c.Source = SourceError
	c.Err = err
	return c, true
}

// survive turns the panic of a foreign error's method into a cause: a typed nil
// pointer in an error interface is enough for one.
func survive(c *Cause, ends *bool, err error) {
	if recover() != nil {
		*c = Cause{Reason: ReasonConnectionClosed, Source: SourceError, Err: err, Detail: "an error that cannot be read"}
		*ends = true
	}
}

func isLockError(err error) bool {
	return errors.Is(err, lock.ErrFenced) || errors.Is(err, lock.ErrLost)
}

func pairDetail(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, whatsmeow.ErrPairRejectedLocally):
		return "the program's own check rejected the pairing"
	case errors.Is(err, whatsmeow.ErrPairInvalidDeviceIdentityHMAC), errors.Is(err, whatsmeow.ErrPairInvalidDeviceSignature):
		return "the phone's signature is not valid"
	}
	if _, ok := errors.AsType[*whatsmeow.PairDatabaseError](err); ok {
		return "the new device could not be saved: check the store"
	}
	return "the pairing message was not understood"
}

// connectError tells errors apart by type where there is one. whatsmeow's own
// handshake errors have none: their texts are matched, and a test makes the
// real client produce each of them.
func connectError(err error) Cause {
	text := err.Error()
	if strings.Contains(text, "failed to verify server cert") {
		// Newer versions of whatsmeow look at the time too. A wrong clock is no
		// forgery: it is put right, or the certificate renewed, and a retry succeeds.
		switch {
		case strings.Contains(text, "certificate expired"):
			return Cause{Reason: ReasonNetworkUnreachable, Detail: "the server's Noise certificate has expired, or this machine's clock is wrong"}
		case strings.Contains(text, "certificate not valid yet"):
			return Cause{Reason: ReasonNetworkUnreachable, Detail: "the server's Noise certificate is not valid yet, or this machine's clock is wrong"}
		}
		return Cause{Reason: ReasonUntrustedServer, Detail: "the server's Noise certificate is not WhatsApp's"}
	}
	if strings.Contains(text, "timed out waiting for handshake response") {
		return Cause{Reason: ReasonTimedOut, Detail: "the server did not answer the Noise handshake"}
	}
	if strings.Contains(text, "missing parts of handshake response") {
		return Cause{Reason: ReasonTimedOut, Detail: "the Noise handshake was cut short"}
	}
	if status, ok := errors.AsType[socket.ErrWithStatusCode](err); ok && status.StatusCode != 101 {
		return httpStatus(status.StatusCode)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		detail := "the server's name could not be resolved"
		if dns.IsTimeout {
			detail = "the name server did not answer"
		}
		return Cause{Reason: ReasonNetworkUnreachable, Detail: detail}
	}
	if detail := tlsDetail(err); detail != "" {
		return Cause{Reason: ReasonNetworkUnreachable, Detail: detail}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return Cause{Reason: ReasonTimedOut, Detail: "the server did not answer in time"}
	}
	if errors.Is(err, context.Canceled) {
		return Cause{Reason: ReasonConnectionClosed, Detail: "the attempt was cancelled"}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return Cause{Reason: ReasonNetworkUnreachable, Detail: "the connection was refused"}
	}
	dialing := strings.Contains(text, "failed to dial")
	if op, ok := errors.AsType[*net.OpError](err); ok && op != nil && op.Op == "dial" {
		dialing = true
	}
	if dialing {
		return Cause{Reason: ReasonNetworkUnreachable, Detail: dialDetail(err)}
	}
	if strings.Contains(text, "noise handshake failed") {
		return Cause{Reason: ReasonConnectionClosed, Detail: "the connection ended during the Noise handshake"}
	}
	return Cause{Reason: ReasonConnectionClosed, Detail: plain(text)}
}

// httpStatus is an answer other than 101 to the websocket upgrade. A server
// that answers with an error is not to be hurried; below 400 it was no
// WhatsApp server at all, but a captive portal or a proxy.
func httpStatus(code int) Cause {
	c := Cause{Reason: ReasonServiceUnavailable, Code: code, Detail: "HTTP status " + strconv.Itoa(code) + " instead of a websocket"}
	if code < 400 {
		c.Reason = ReasonNetworkUnreachable
		c.Detail += ": something between here and WhatsApp answered"
	}
	return c
}

func dialDetail(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed while it was being made"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no route to the server"
	}
	return "the server could not be reached"
}

func tlsDetail(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the TLS certificate is signed by an unknown authority"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the TLS certificate belongs to another name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "the TLS certificate has expired, or this machine's clock is wrong"
		}
		return "the TLS certificate is not valid"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the TLS certificate could not be verified"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "the server refused the TLS handshake"
	}
	return ""
}
