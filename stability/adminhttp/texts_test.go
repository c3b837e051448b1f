package adminhttp_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The page shows texts of these packages to people, who have no use for a
// route.
func TestNoTextForPeopleNamesAnHTTPRoute(t *testing.T) {
	route := regexp.MustCompile(`\b(GET|POST|PUT|DELETE) /|/api/|/health\b|/ready\b`)
	for _, dir := range []string{".", "..", "../internal/sends", "../internal/term", "../../guard", "../../reconnect", "../../keepalive", "../../autoheal", "../../lock", "../../authstore"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			set := gotoken.NewFileSet()
			parsed, err := parser.ParseFile(set, file, nil, 0)
			require.NoError(t, err)
			ast.Inspect(parsed, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != gotoken.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				if strings.Contains(text, " ") { // else it is the route itself
					require.False(t, route.MatchString(text), "%s: %q", set.Position(lit.Pos()), text)
				}
				return true
			})
		}
	}
	require.NoError(t, filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		require.False(t, route.Match(b), path)
		return err
	}))
}

// A connection that has just come back shows nothing of the trouble as if it
// went on.
func TestConnectedStatusShowsNoAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.Refused()).Times(4).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.RetryCount == 5 })
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		require.EqualValues(t, 5, p.m.Status().State.RetryCount, "not forgotten before it is stable")
		wa := p.answer(p.get("/api/longrun/status-now"), 200)["wa"].(map[string]any)
		require.EqualValues(t, 0, wa["retryCount"])
		p.stop()
	})
}

func TestNextStepIsTrueOfEachMessageThatWaits(t *testing.T) {
	for state, want := range map[stability.MessageState]string{
		stability.MessageRefused:   "pauses of up to a quarter of an hour",
		stability.MessageKept:      "pauses of up to a quarter of an hour",
		stability.MessageLeftAlone: "left alone for now",
		stability.MessageSetAside:  "until somebody hands them over again or removes them, or until they reach the age that the program sets",
	} {
		st := stability.Status{At: time.Now(), Mode: stability.ModeActive, WA: reconnect.StatusConnected}
		st.Messages.Received.Missed = map[stability.MessageState]stability.MessageGroup{state: {Count: 1, Oldest: st.At}}
		st.Messages.Received.Redelivers = true
		_, next, _ := adminhttp.Explained(st)
		require.Contains(t, next, want, state)
		if state == stability.MessageSetAside || state == stability.MessageLeftAlone {
			require.NotContains(t, next, "quarter of an hour", state)
		}
	}
}

func TestStoppedOnPurposeIsToldWhenToTry(t *testing.T) {
	st := stability.Status{At: time.Now(), Mode: stability.ModeActive, WA: reconnect.StatusDisconnected, Parked: true, LastDisconnectReason: reconnect.ReasonIntentional}
	_, _, do := adminhttp.Explained(st)
	require.Equal(t, "Press Try now when it should be connected again.", do)
	st.LastDisconnectReason = reconnect.ReasonUntrustedServer
	_, _, do = adminhttp.Explained(st)
	require.True(t, strings.HasSuffix(do, "update whatsmeow. Only then press Try now."), do)
}

func TestAskingForTheLockIsNotCalledWaitingForTheProgram(t *testing.T) {
	st := stability.Status{At: time.Now(), Mode: stability.ModePassive, Running: true}
	why, next, _ := adminhttp.Explained(st)
	require.Contains(t, why, "The program asks for the lock")
	require.NotContains(t, next, "as soon as the program asks")
}

// The cause of an attempt says nothing of what follows if it fails.
func TestAttemptThatFailsIsNotSaidToComeBackAtOnce(t *testing.T) {
	for _, r := range append(reconnect.Reasons(), reconnect.ReasonNone) {
		st := stability.Status{At: time.Now(), Mode: stability.ModeActive, WA: reconnect.StatusDisconnected, Connecting: true, LastDisconnectReason: r}
		_, next, do := adminhttp.Explained(st)
		require.NotContains(t, next, "not counted as a failure", r)
		require.NotContains(t, next, "reconnects at once", r)
		require.NotEmpty(t, do, r)
	}
}

func TestStandbyThatLostTheLockSaysWhen(t *testing.T) {
	lost := time.Date(2026, 8, 21, 22, 15, 0, 0, time.UTC)
	st := stability.Status{At: lost.Add(time.Minute), Mode: stability.ModePassive, Running: true, LockHolder: "wa-2", InstanceID: "wa-1", LastDisconnectReason: reconnect.ReasonLockLost, LastDisconnectAt: lost}
	why, _, do := adminhttp.Explained(st)
	require.Contains(t, why, "until 22:15:00 UTC on 21 August 2026, and lost the lock")
	require.Contains(t, do, "If the lock moves often")
	st.LastDisconnectReason = reconnect.ReasonHandedOver
	why, _, do = adminhttp.Explained(st)
	require.Contains(t, why, "That is how it should be")
	require.Empty(t, do)
}

// A new connection is made for refused messages, and for no others. Without Run it is
// made only if the program has said how.
func TestOnlyRefusedMessagesEndTheConnection(t *testing.T) {
	for state, ends := range map[stability.MessageState]bool{stability.MessageRefused: true, stability.MessageKept: false, stability.MessageLeftAlone: false, stability.MessageSetAside: false} {
		st := stability.Status{At: time.Now(), Mode: stability.ModeActive, WA: reconnect.StatusConnected}
		st.Messages.Received.Missed = map[stability.MessageState]stability.MessageGroup{state: {Count: 1, Oldest: st.At}}
		for _, can := range []bool{false, true} {
			st.Messages.Received.Redelivers = can
			_, next, _ := adminhttp.Explained(st)
			require.Equal(t, ends && can, strings.Contains(next, "the connection is made anew"), state)
			require.Equal(t, ends && !can, strings.Contains(next, "The library was not told how to connect"), state)
		}
	}
}
