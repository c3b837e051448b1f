package autoheal_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/autoheal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func every(n int, step time.Duration, last time.Time) (out []time.Time) {
	for i := range n {
		out = append(out, last.Add(-time.Duration(n-1-i)*step))
	}
	return out
}

func TestTenAttemptsInTenMinutesAreALoop(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	require.Equal(t, autoheal.None, h.Check(autoheal.Input{Attempts: every(9, time.Minute, start)}, start).Action)
	require.Equal(t, autoheal.Heal, h.Check(autoheal.Input{Attempts: every(10, time.Minute, start)}, start).Action)
	require.Equal(t, autoheal.None, h.Check(autoheal.Input{Attempts: every(10, 67*time.Second, start)}, start).Action, "spread wider")
}

func TestTenSlowFailuresInARowAreALoopToo(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	require.Equal(t, autoheal.Heal, h.Check(autoheal.Input{Failures: 10, Attempts: every(10, 90*time.Second, start)}, start).Action)
}

func TestWhatARestartCannotCureNeverHeals(t *testing.T) {
	in := autoheal.Input{Excluded: true, Failures: 100, Attempts: every(100, time.Second, start)}
	require.Equal(t, autoheal.None, autoheal.New(autoheal.Policy{}).Check(in, start).Action)
	in.Excluded = false
	require.Equal(t, autoheal.None, autoheal.New(autoheal.Policy{Disabled: true}).Check(in, start).Action)
}

func TestFourthHealWithinAnHourBecomesSlowRetries(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	var restarts []time.Time
	now := start
	for range 3 {
		require.Equal(t, autoheal.Heal, h.Check(autoheal.Input{Failures: 10, Restarts: restarts}, now).Action)
		restarts = append(restarts, now)
		now = now.Add(10 * time.Minute)
	}
	v := h.Check(autoheal.Input{Failures: 10, Restarts: restarts}, now)
	require.Equal(t, autoheal.Exhausted, v.Action)
	require.Equal(t, 15*time.Minute, v.Floor)
	require.Equal(t, start.Add(time.Hour), v.BudgetAt)
	require.Equal(t, autoheal.Heal, h.Check(autoheal.Input{Failures: 10, Restarts: restarts}, v.BudgetAt).Action)
	require.Equal(t, autoheal.Exhausted, h.Check(autoheal.Input{Failures: 10, Restarts: restarts}, v.BudgetAt.Add(-1)).Action)
}

func TestBudgetIsFreeAgainWhenEnoughRestartsAreOld(t *testing.T) {
	// Four restarts against a budget of three, as after it was lowered.
	restarts := every(4, 10*time.Minute, start)
	in := autoheal.Input{Failures: 10, Restarts: restarts}
	h := autoheal.New(autoheal.Policy{})
	v := h.Check(in, start)
	require.Equal(t, restarts[1].Add(time.Hour), v.BudgetAt)
	require.Equal(t, autoheal.Exhausted, h.Check(in, v.BudgetAt.Add(-1)).Action)
	require.Equal(t, autoheal.Heal, h.Check(in, v.BudgetAt).Action)
}

// A program that follows each decision, with any history, restarts at most
// Budget times in any BudgetWindow, and is told when the next is due.
func TestRestartsNeverExceedTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := autoheal.New(autoheal.Policy{})
		now := start
		var attempts, restarts []time.Time
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "pause")) * time.Second)
			attempts = append(attempts, now)
			v := h.Check(autoheal.Input{Attempts: attempts, Failures: len(attempts), Restarts: restarts}, now)
			switch v.Action {
			case autoheal.Heal:
				attempts, restarts = nil, append(restarts, now)
			case autoheal.Exhausted:
				require.True(t, v.BudgetAt.After(now))
				require.GreaterOrEqual(t, v.Spent, 3)
				require.NotEmpty(t, v.Text)
			}
			if n := len(restarts); n > 3 {
				require.GreaterOrEqual(t, restarts[n-1].Sub(restarts[n-4]), time.Hour)
			}
		}
	})
}

func TestInstantsInTheFutureCountAsNow(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	future := every(3, time.Second, start.Add(1000*time.Hour))
	v := h.Check(autoheal.Input{Failures: 10, Restarts: future}, start)
	require.Equal(t, autoheal.Exhausted, v.Action)
	require.Equal(t, start.Add(time.Hour), v.BudgetAt, "not a thousand hours later")
}

func TestThresholdsAreValidatedByName(t *testing.T) {
	require.NoError(t, autoheal.Policy{}.Validate())
	for field, p := range map[string]autoheal.Policy{
		"Attempts": {Attempts: -1}, "Window": {Window: -1}, "Failures": {Failures: -1}, "Budget": {Budget: -1},
		"BudgetWindow": {BudgetWindow: time.Minute}, "SlowRetry": {SlowRetry: -1},
	} {
		require.ErrorContains(t, p.Validate(), "Policy."+field)
	}
}

func TestNineOfEachAreNoLoop(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	in := autoheal.Input{Failures: 9, Attempts: every(9, time.Second, start)}
	require.Equal(t, autoheal.Verdict{Action: autoheal.None, InWindow: 9}, h.Check(in, start))
	in.Failures = 10
	require.Equal(t, autoheal.Heal, h.Check(in, start).Action)
	in.Failures, in.Attempts = 9, every(10, time.Second, start)
	require.Equal(t, autoheal.Heal, h.Check(in, start).Action)
}

// The lists come from a document that others may have written.
func TestTheOrderOfTheRestartsDoesNotMatter(t *testing.T) {
	sorted := every(5, 10*time.Minute, start)
	mixed := []time.Time{sorted[3], sorted[0], sorted[4], sorted[2], sorted[1]}
	h := autoheal.New(autoheal.Policy{})
	v := h.Check(autoheal.Input{Failures: 10, Restarts: mixed}, start)
	require.Equal(t, h.Check(autoheal.Input{Failures: 10, Restarts: sorted}, start), v)
	require.Equal(t, sorted[2].Add(time.Hour), v.BudgetAt)
}

func TestAVerdictSaysWhatWasCounted(t *testing.T) {
	h := autoheal.New(autoheal.Policy{})
	in := autoheal.Input{
		Failures: 13, Attempts: append(every(12, 10*time.Second, start), start.Add(-time.Hour)),
		Restarts: every(2, 10*time.Minute, start),
	}
	require.Equal(t, autoheal.Verdict{
		Action: autoheal.Heal, InWindow: 12, Spent: 2,
		Text: "12 attempts within 10m0s and 13 failures in a row: this process gives up, so that a fresh one or a standby takes over.",
	}, h.Check(in, start))

	in.Restarts = every(4, 10*time.Minute, start)
	require.Equal(t, autoheal.Verdict{
		Action: autoheal.Exhausted, InWindow: 12, Spent: 4, Floor: 15 * time.Minute, BudgetAt: start.Add(40 * time.Minute),
		Text: "Reconnecting goes on in a loop, and 4 restarts within 1h0m0s did not help: attempts are at least 15m0s apart now.",
	}, h.Check(in, start))
}

func TestTheDefaults(t *testing.T) {
	want := autoheal.Policy{
		Attempts: 10, Window: 10 * time.Minute, Failures: 10, Budget: 3, BudgetWindow: time.Hour, SlowRetry: 15 * time.Minute,
	}
	require.Equal(t, want, autoheal.Policy{}.Defaults())
	own := autoheal.Policy{Disabled: true, Attempts: 1, Window: 2, Failures: 4, Budget: 5, BudgetWindow: 6, SlowRetry: 7}
	require.Equal(t, own, own.Defaults())
	require.Equal(t, 5*time.Second, autoheal.StepTimeout)
}

func TestTheBudgetWindowHoldsAtLeastOneWindow(t *testing.T) {
	require.NoError(t, autoheal.Policy{BudgetWindow: 10 * time.Minute}.Validate())
	require.ErrorContains(t, autoheal.Policy{BudgetWindow: 10*time.Minute - 1}.Validate(), "the budget would never be spent")
	require.ErrorContains(t, autoheal.Policy{BudgetWindow: -1}.Validate(), "Policy.BudgetWindow is negative")
	require.ErrorContains(t, autoheal.Policy{Window: -1, BudgetWindow: -1}.Validate(), "Policy.Window is negative")
}
