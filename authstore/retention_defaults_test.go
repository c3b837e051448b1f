package authstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is kept, and for how long, is what the documentation says, whether a host
// says nothing or part of it.
func TestRetentionIsTheDocumentedOne(t *testing.T) {
	const day = 24 * time.Hour
	want := Retention{
		MessageSecrets: 180 * day, SenderKeys: 180 * day, PrivacyTokens: 180 * day,
		FinishedEvents: 14 * day, Sent: 7 * day, SentCount: 10_000, SetAside: Forever,
	}
	require.Equal(t, want, New(newMapKV()).Retention())
	require.Equal(t, want, New(newMapKV(), WithRetention(Retention{})).Retention())
	require.Equal(t, want, New(newMapKV(), WithRetention(Retention{FinishedEvents: time.Hour})).Retention())
	own := Retention{
		MessageSecrets: 1 * day, SenderKeys: 2 * day, PrivacyTokens: 3 * day, FinishedEvents: 30 * day, Sent: -1, SentCount: 5, SetAside: 6 * day, LIDs: 7,
	}
	require.Equal(t, own, New(newMapKV(), WithRetention(own)).Retention())
}
