package reconnect_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/reconnect"
)

// declared reads the Reason constants from the source, so that a new one
// cannot be forgotten in the table.
func declared(t *testing.T) []reconnect.Reason {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	require.NoError(t, err)
	var out []reconnect.Reason
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
			word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			out = append(out, reconnect.Reason(word))
		}
		return true
	})
	require.Greater(t, len(out), 20)
	return out
}

func TestEveryReasonHasExactlyOneCompleteRow(t *testing.T) {
	var want []reconnect.Reason
	for _, r := range declared(t) {
		if r != reconnect.ReasonNone {
			want = append(want, r)
		}
	}
	require.ElementsMatch(t, want, reconnect.Reasons())
	for _, r := range reconnect.Reasons() {
		require.True(t, r.Known(), r)
		require.NotEmpty(t, r.Class(), r)
		require.NotEmpty(t, r.Action(), r)
		for _, sentence := range []string{r.Text().Means, r.Text().Does, r.Text().Do} {
			require.NotEmpty(t, sentence, r)
			require.True(t, strings.HasSuffix(sentence, "."), "%s: %q", r, sentence)
		}
	}
}

func TestAdviceForLastingTroubleIsNotToWait(t *testing.T) {
	for _, r := range reconnect.Reasons() {
		do := r.Text().DoIfItLasts()
		require.NotRegexp(t, `^(Nothing|If it)`, do, r)
		if do != "" {
			require.Regexp(t, `^[A-Z].*\.$`, do, r)
			require.Contains(t, r.Text().Do, do[1:], r)
		} else {
			require.Equal(t, "Nothing.", r.Text().Do, r)
		}
	}
	require.Equal(t, "Check the network, proxy and firewall.", reconnect.ReasonTimedOut.Text().DoIfItLasts())
}

func TestUnknownReasonRetriesAndRanksLowest(t *testing.T) {
	future := reconnect.Reason("tea_break")
	require.False(t, future.Known())
	require.Equal(t, reconnect.ActionRetry, future.Action())
	require.NotEmpty(t, future.Text().Means)
	for _, r := range reconnect.Reasons() {
		require.True(t, r.Outranks(future), r)
	}
	d := machine().Disconnected(cause(future), start)
	require.True(t, d.ShouldReconnect)
	require.Equal(t, future, d.Reason)
}

func TestPrecedenceFollowsTheTiers(t *testing.T) {
	tiers := [][]reconnect.Reason{
		{reconnect.ReasonIntentional, reconnect.ReasonLockLost, reconnect.ReasonHandedOver},
		{reconnect.ReasonLoggedOut, reconnect.ReasonAccountBanned, reconnect.ReasonAccountLocked},
		{reconnect.ReasonTemporaryBan, reconnect.ReasonClientOutdated, reconnect.ReasonUntrustedServer},
		{reconnect.ReasonConnectionReplaced},
		{reconnect.ReasonPairingFailed, reconnect.ReasonMultideviceMismatch, reconnect.ReasonQRExpired, reconnect.ReasonStoreUnavailable},
		{reconnect.ReasonRestartRequired, reconnect.ReasonRequested, reconnect.ReasonRedelivery, reconnect.ReasonHolderLost, reconnect.ReasonClosedByProgram},
		{reconnect.ReasonServiceUnavailable, reconnect.ReasonBadSession, reconnect.ReasonConnectRejected},
		{reconnect.ReasonConnectionLost, reconnect.ReasonTimedOut, reconnect.ReasonNetworkUnreachable},
		{reconnect.ReasonConnectionClosed},
	}
	require.ElementsMatch(t, reconnect.Reasons(), slices.Concat(tiers...))
	for i := range tiers {
		for j := i + 1; j < len(tiers); j++ {
			for _, high := range tiers[i] {
				for _, low := range tiers[j] {
					require.True(t, high.Outranks(low), "%s over %s", high, low)
					require.False(t, low.Outranks(high))
					require.Equal(t, high, reconnect.Better(cause(low), cause(high)).Reason)
				}
			}
		}
	}
}

// Only what a fresh process could cure may end this one.
func TestHealExclusions(t *testing.T) {
	var counts []reconnect.Reason
	for _, r := range reconnect.Reasons() {
		if r.Counts() {
			counts = append(counts, r)
		}
	}
	require.ElementsMatch(t, []reconnect.Reason{
		reconnect.ReasonConnectionClosed, reconnect.ReasonConnectionLost, reconnect.ReasonTimedOut,
		reconnect.ReasonNetworkUnreachable, reconnect.ReasonServiceUnavailable, reconnect.ReasonBadSession,
	}, counts)
}

var reasons = rapid.SampledFrom(append(reconnect.Reasons(), "tea_break", "lunch"))

var causes = rapid.Custom(func(t *rapid.T) reconnect.Cause {
	return reconnect.Cause{
		Reason:    reasons.Draw(t, "reason"),
		Code:      rapid.SampledFrom([]int{0, 402, 500, 503}).Draw(t, "code"),
		Detail:    rapid.SampledFrom([]string{"", "a", "bb", "cc"}).Draw(t, "detail"),
		Expire:    seconds(t, "expire", 0, 100_000),
		OnConnect: rapid.Bool().Draw(t, "onConnect"),
		Source: rapid.SampledFrom([]reconnect.Source{
			reconnect.SourceTap, reconnect.SourceEvent, reconnect.SourceError, reconnect.SourceRaw, reconnect.SourceHost, "",
		}).Draw(t, "source"),
	}
})

func TestBetterIsAJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := causes.Draw(t, "a"), causes.Draw(t, "b"), causes.Draw(t, "c")
		require.Equal(t, a, reconnect.Better(a, a))
		require.Equal(t, reconnect.Better(a, b), reconnect.Better(b, a))
		require.Equal(t, reconnect.Better(reconnect.Better(a, b), c), reconnect.Better(a, reconnect.Better(b, c)))
		require.False(t, a.Reason.Outranks(reconnect.Better(a, b).Reason))
	})
}
