"""The FreqAI model that ``--freqaimodel MtfScalperRLModel`` finds. Everything lives in the package ``mtfscalper``."""

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class MtfScalperRLModel(MtfScalperFreqaiModel):
    """PPO on parallel trading environments that trade by freqtrade's own rules.

    Override a live hook here, or in a model of your own, and call ``super``; overriding another one stops the run.
    The live ones (``mtfscalper.freqai.hooks``) are:

    - what changes a model: ``train`` (from a frame to a policy), ``fit`` (training on tapes), ``predict`` (decisions),
      ``define_data_pipeline`` (scaling), ``fit_live_predictions`` (means and deviations of predictions);
    - a backtest, in order: ``start``, ``start_backtesting``, ``ensure_data_exists``, ``log_backtesting_progress``,
      ``check_if_feature_list_matches_strategy``, ``model_exists``, ``_append_null_backtesting_predictions``,
      ``backtesting_fit_live_predictions``, ``clean_up``; with ``--freqai-backtest-live-models``
      ``start_backtesting_from_historic_predictions``;
    - a bot: ``start_live``, ``start_scanning``, ``_start_scanning``, ``extract_data_and_train_model``,
      ``build_strategy_return_arrays``, ``set_initial_historic_predictions``, ``set_start_dry_live_date``,
      ``update_metadata``, ``track_current_candle``, ``cache_corr_pairlist_dfs``, ``inference_timer``,
      ``train_timer``, ``shutdown``, ``_on_stop``;
    - when the model is made: ``assert_config``, ``set_full_path``, ``_set_train_queue``, ``unset_outlier_removal``.

    A nested ``MyRLEnv`` with ``calculate_reward`` is the reward, as FreqAI documents it (docs/own_reward.md). Faster is
    a reward in the config (``model_reward_parameters``, with functions of yours in its ``terms``); there stands the
    network too (``rl_config.network``).
    """
