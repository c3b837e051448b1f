package stability_test

import (
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// README's paragraph "No message is lost", a sentence at a time, and the tests
// that fail when it is not so.
var noMessageIsLost = []struct {
	sentence string
	tests    []string
}{
	{"No message is lost, and each is accounted for", []string{
		"stability.TestBookBalancesWhateverHappens", "stability.TestKilledAtAnyMomentItLogsInWithoutACodeAndLosesNoMessage",
		"stability.TestNoHandlerBehaviourLosesAMessage", "stability.TestHandlerThatCallsOSExitLosesNoMessage",
		"stability.TestHandlerThatIsRegisteredLateMissesNothing",
	}},
	{"Each received message is handled, waits, or was set aside, and `Status().Messages` counts all three", []string{
		"stability.TestBookBalancesWhateverHappens", "stability/internal/book.TestMessageIsInOneOfThreePlaces",
	}},
	{"A message that could not be saved is not acknowledged, and is delivered again", []string{
		"stability.TestAnOutageOfTheStoreWhileConnectedLosesNoMessage", "authstore.TestAnOutageNeverBecomesALostMessage",
	}},
	{"A message that your handler refused comes again by itself", []string{
		"stability.TestRefusedMessageComesAgainByItself", "stability.TestHostThatRefusesEverythingIsDownAndNotPoisoned",
		"stability.TestNewsletterThatIsNotTakenComesAgain", "stability.TestHandlerBeforeAttachLosesNoMessage",
	}},
	{"One at which it panicked is kept, and handed over again", []string{
		"stability.TestMessageThatPanicsAHandlerIsKeptAndHandedOverAgain", "stability.TestWhatAHandlerPanickedAtOutlivesTheProcess",
	}},
	{"One that it never takes while it takes others is set aside with its content", []string{
		"stability.TestPoisonousMessageIsSetAsideWithItsContent",
	}},
	{"One that ends the process is left alone at WhatsApp after four times at most, and those behind it are handled", []string{
		"stability.TestMessagesThatKillTheProcessAreFoundAndLeftAlone", "stability.TestHandlerThatCallsOSExitLosesNoMessage",
	}},
	{"One that is so malformed that whatsmeow panics ends no process", []string{
		"stability.TestMalformedSenderKeyEndsNoProcessAndLosesNoText", "stability.TestWhatWhatsmeowPanicsAtBeforeItDecryptsIsToldWithinAMinute",
	}},
	{"One that cannot be decrypted is asked of the phone for 14 days", []string{
		"stability.TestUndecryptableMessageIsAskedOfThePhoneUntilItIsThere", "stability.TestUndecryptableMessageIsNotedBeforeItIsAcknowledged",
	}},
	{"After that an entry says who sent it, where and when", []string{
		"stability.TestMessageThatNobodySendsAgainEndsAsAnEntryWithoutContent",
	}},
	// A sentence about an exception has no test.
	{"Newsletters without `SynchronousAck` are excepted: whatsmeow acknowledges their messages before it handles them", nil},
}

// A sentence that is added or changed needs its tests looked at, and a test that
// is renamed or removed leaves a sentence unproved.
func TestEachSentenceOfNoMessageIsLostHasATest(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, found, ok := strings.Cut(string(text), "\n- **No message is lost")
	require.True(t, ok)
	found, _, ok = strings.Cut("No message is lost"+found, ": [authstore](")
	require.True(t, ok)
	found = strings.Join(strings.Fields(strings.ReplaceAll(found, "**", "")), " ")
	var sentences []string
	for _, s := range noMessageIsLost {
		sentences = append(sentences, s.sentence)
		for _, name := range s.tests {
			dir, test, ok := strings.Cut(name, ".")
			require.True(t, ok, name)
			require.True(t, hasTest(t, filepath.Join("..", dir), test), "%s is nowhere", name)
		}
	}
	require.Equal(t, sentences, strings.Split(found, ". "))
}

// README's table "Your old lines": each line, and the tests of what is said of it.
var oldLines = []struct {
	line  string
	tests []string
}{
	{"`whatsmeow.NewClient(device, log)`", []string{"stability.TestHostMakesTheClientsAndGetsTheirLog"}},
	{"`client.AddEventHandler(f)`", []string{"stability.TestHandlerThatIsRegisteredLateMissesNothing", "stability.TestAfterALogoutRunOffersANewCodeAndPairingWorksInTheSameProcess"}},
	{"`client.Connect()`", []string{"stability.TestNoProgramOfHostCallsKeepsTheAccountAway"}},
	{"`client.Disconnect()` at the end", []string{"stability.TestAHostPairsChatsIsCutOffAndComesBackWithoutPairingAgain", "stability.TestDisconnectOfAHostUnderRunIsFollowedByANewConnection"}},
	{"`client.Disconnect(); client.Connect()`", []string{"stability.TestReconnectsAskedAtOnceMakeOneLogin", "stability.TestNoProgramOfHostCallsKeepsTheAccountAway"}},
	{"`client.Logout(ctx)`", []string{"stability.TestLogoutWithoutAConnectionRemovesTheDeviceHere", "stability.TestAHostsOwnLogoutThroughTheClientIsUnderstood"}},
	{"`client.SetProxy(…)`, `SetProxyAddress`, `SetSOCKSProxy`", []string{"stability.TestSettingsAreSetBackBeforeEachAttemptWithOneWarningATerm", "stability.TestConnectionPastTheDialerIsReplacedUnderRun"}},
	{"`client.EnableAutoReconnect = true`, `InitialAutoReconnect`, `AutoReconnectHook`", []string{"stability.TestSettingsAreSetBackBeforeEachAttemptWithOneWarningATerm"}},
	{"`client.GetQRChannel(ctx)`", []string{"stability.TestCodesFollowEachOtherAndAfterSomeRoundsRunWaitsUntilAsked", "stability.TestCallsWaitForTheLockAndSayWhenItNeverCame"}},
	{"`client.PairPhone(ctx, phone, …)`", []string{"stability.TestCodeToTypeLastsTwoMinutesAtLeast"}},
	{"`client.RemoveEventHandlers()`", []string{"stability.TestNoCallOfAHostMakesItsClientDeaf"}},
	{"`client.SendMessage(ctx, to, message)`", []string{"stability.TestWhatSendSentIsGivenAgainAfterACrash"}},
	{"`client.IsConnected()`, `client.IsLoggedIn()`", []string{"stability.TestStatusSaysDownWithinMoments"}},
	{"`case *events.Disconnected:` and your own retries", []string{"stability.TestEveryEndOfALiveConnectionHasItsReasonItsStatusAndItsAction"}},
	{"`sqlstore.New(…)`", []string{"examples/import.TestAnAccountMovesFromSQLiteAndOnAndNobodyNotices"}},
}

func TestEachOldLineOfREADMEHasATest(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(text), "\n| your line | with `Run` |\n|---|---|\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	var lines []string
	for row := range strings.SplitSeq(table, "\n") {
		line, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		lines = append(lines, line)
	}
	var want []string
	for _, l := range oldLines {
		want = append(want, l.line)
		for _, name := range l.tests {
			dir, test, _ := strings.Cut(name, ".")
			require.True(t, hasTest(t, filepath.Join("..", dir), test), "%s is nowhere", name)
		}
	}
	require.Equal(t, want, lines)
}

func hasTest(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.Contains(string(text), fmt.Sprintf("\nfunc %s(t *testing.T)", name)) {
			return true
		}
	}
	return false
}

// The pictures in README are there, small, and described for who cannot see them.
func TestReadmePicturesAreThere(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	found := regexp.MustCompile(`<img [^>]*>|!\[[^\]]*\]\([^)]*\)`).FindAllString(string(text), -1)
	require.NotEmpty(t, found)
	for _, tag := range found {
		parts := regexp.MustCompile(`^<img src="(docs/images/[\w-]+\.png)" [^>]*alt="([^"]{20,})">$`).FindStringSubmatch(tag)
		require.NotNil(t, parts, "%s: a picture of this repository, with a text of 20 letters at least", tag)
		file, err := os.Open(filepath.Join("..", parts[1]))
		require.NoError(t, err)
		defer file.Close()
		_, err = png.DecodeConfig(file)
		require.NoError(t, err, parts[1])
		info, err := file.Stat()
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(100_000), "%s is too large for a repository", parts[1])
	}
}
