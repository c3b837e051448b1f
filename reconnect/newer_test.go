package reconnect_test

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

// PairPasskeyError and PairPasskeyRequest stand in for the events of newer
// versions of whatsmeow, which are known by their names.
type PairPasskeyError struct {
	Error        error
	Continuation bool
}

type PairPasskeyRequest struct{ PublicKey *struct{} }

func TestPasskeyEventsEndNothing(t *testing.T) {
	inner := errors.New("the authenticator said no")
	c, ends := reconnect.Classify(&PairPasskeyError{Error: inner})
	require.False(t, ends, "the code stays valid")
	require.Equal(t, reconnect.ReasonPairingFailed, c.Reason)
	require.Equal(t, reconnect.SourceEvent, c.Source)
	require.ErrorIs(t, c, inner)

	c, ends = reconnect.Classify((*PairPasskeyError)(nil))
	require.False(t, ends)
	require.NoError(t, c.Err)
	c, ends = reconnect.Classify(&PairPasskeyRequest{})
	require.False(t, ends)
	require.Equal(t, reconnect.Cause{}, c)
}

// The texts are those of newer versions of whatsmeow.
func TestWrongClockIsNoForgery(t *testing.T) {
	verify := func(err error) error {
		return fmt.Errorf("noise handshake failed: %w", fmt.Errorf("failed to verify server cert: %w", err))
	}
	for text, want := range map[string]struct {
		reason reconnect.Reason
		detail string
	}{
		"leaf cert cert certificate expired (current time 2026 is after 2025)":           {reconnect.ReasonNetworkUnreachable, "has expired, or this machine's clock is wrong"},
		"intermediate cert certificate not valid yet (current time 1970 is before 2026)": {reconnect.ReasonNetworkUnreachable, "is not valid yet, or this machine's clock is wrong"},
		"failed to verify intermediate cert signature":                                   {reconnect.ReasonUntrustedServer, "is not WhatsApp's"},
		"cert key doesn't match decrypted static":                                        {reconnect.ReasonUntrustedServer, "is not WhatsApp's"},
		"unexpected leaf issuer serial 1 (expected 0)":                                   {reconnect.ReasonUntrustedServer, "is not WhatsApp's"},
	} {
		c, ends := reconnect.Classify(verify(errors.New(text)))
		require.True(t, ends)
		require.Equal(t, want.reason, c.Reason, text)
		require.Contains(t, c.Detail, want.detail)
	}
	require.Equal(t, reconnect.ActionRetry, reconnect.ReasonNetworkUnreachable.Action(), "a clock is put right")
}

func TestFailedDialIsKnownByBothWordings(t *testing.T) {
	op := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no way")}
	for _, err := range []error{
		fmt.Errorf("failed to dial whatsapp web websocket: %w", op),
		fmt.Errorf("%w: %w", errors.New("failed to dial whatsapp web websocket"), op), // with ErrDialFailed
	} {
		c, ends := reconnect.Classify(err)
		require.True(t, ends)
		require.Equal(t, reconnect.ReasonNetworkUnreachable, c.Reason)
	}
}
